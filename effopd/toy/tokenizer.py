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

PAD_TOKEN, PAD_TOKEN_ID = "<pad>", 0
EOS_TOKEN, EOS_TOKEN_ID = "<eos>", 1
# Stands for every character outside the alphabet, so that a stray one is seen by the model instead of vanishing.
UNKNOWN_TOKEN, UNKNOWN_TOKEN_ID = "<unk>", 2

CHARACTERS = "0123456789+=,:" + "".join(OPERATIONS) + LETTERS + LETTERS.upper()
"""The alphabet, in the order of the token ids that follow those of the special tokens."""

CONTEXT_LENGTH = 128
"""The most tokens of prompt and response together that a toy model takes; no problem comes near it."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer: the three special tokens, then the alphabet; 61 tokens. The same on every call."""
    special = {PAD_TOKEN: PAD_TOKEN_ID, EOS_TOKEN: EOS_TOKEN_ID, UNKNOWN_TOKEN: UNKNOWN_TOKEN_ID}
    characters = {character: index for index, character in enumerate(CHARACTERS, start=len(special))}
    backend = Tokenizer(WordLevel(special | characters, unk_token=UNKNOWN_TOKEN))
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
