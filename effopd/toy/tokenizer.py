"""The character tokenizer that all toy models share.

One token per character and three special tokens. It adds none by itself: a prompt is exactly its characters, there is no
beginning-of-sequence token, and the end of a sequence is for the model to write.
"""

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

from effopd.toy.tasks import LETTERS, OPERATIONS

PAD_TOKEN = "<pad>"
EOS_TOKEN = "<eos>"
# Stands for every character outside the alphabet, so that a stray one is seen by the model instead of vanishing.
UNKNOWN_TOKEN = "<unk>"

CHARACTERS = "0123456789+=,:" + "".join(OPERATIONS) + LETTERS + LETTERS.upper()
"""The alphabet, in the order of the token ids that follow those of the special tokens."""

CONTEXT_LENGTH = 128


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer: `<pad>` is 0, `<eos>` 1, `<unk>` 2, then the alphabet; 61 tokens. The same on every call."""
    tokens = [PAD_TOKEN, EOS_TOKEN, UNKNOWN_TOKEN, *CHARACTERS]
    backend = Tokenizer(WordLevel({token: index for index, token in enumerate(tokens)}, unk_token=UNKNOWN_TOKEN))
    # `.` would not match a line break and so glue it to its neighbour, turning two characters into one unknown token.
    backend.pre_tokenizer = Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD_TOKEN,
        eos_token=EOS_TOKEN,
        unk_token=UNKNOWN_TOKEN,
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )
