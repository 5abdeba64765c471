"""The numbers of a model that memory and time depend on, from its `config.json` or from a table of the recipes' models."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from effopd.errors import ConfigError

_TOY_MODELS = Path(__file__).parents[1] / "toy" / "models"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A decoder with grouped-query attention, rotary positions, RMSNorm and a gated MLP: Qwen2, Qwen2.5, Qwen3, Llama."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocabulary_size: int
    """Rows of the embedding, padding included."""
    has_tied_embeddings: bool
    has_qk_norm: bool
    """RMSNorm on every query and key head, as in Qwen3."""
    has_qkv_bias: bool
    """Biases on the query, key and value projections, as in Qwen2."""
    source: str
    """Where the numbers come from."""

    @property
    def query_width(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def key_value_width(self) -> int:
        return self.num_kv_heads * self.head_dim

    @property
    def num_parameters(self) -> int:
        """Tied weights count once."""
        return self.count(lambda name, shape: True)

    @property
    def num_matrix_parameters(self) -> int:
        """Of the layers and the head: what a token is multiplied with."""
        per_layer = sum(math.prod(shape) for name, shape in self._layer() if len(shape) == 2)
        return self.num_layers * per_layer + self.vocabulary_size * self.hidden_size

    def count(self, is_counted: Callable[[str, tuple[int, ...]], bool]) -> int:
        """Return the elements of all parameters that `is_counted` by name and shape, e.g. those that a jump moves."""
        return sum(math.prod(shape) for name, shape in self.parameters() if is_counted(name, shape))

    def parameters(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every parameter, as transformers names them."""
        yield "model.embed_tokens.weight", (self.vocabulary_size, self.hidden_size)
        for index in range(self.num_layers):
            yield from ((f"model.layers.{index}.{name}", shape) for name, shape in self._layer())
        yield "model.norm.weight", (self.hidden_size,)
        if not self.has_tied_embeddings:
            yield "lm_head.weight", (self.vocabulary_size, self.hidden_size)

    def _layer(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        hidden, queries, keys = self.hidden_size, self.query_width, self.key_value_width
        for name, width in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
            yield f"self_attn.{name}.weight", (width, hidden)
            if self.has_qkv_bias:
                yield f"self_attn.{name}.bias", (width,)
        yield "self_attn.o_proj.weight", (hidden, queries)
        if self.has_qk_norm:
            yield "self_attn.q_norm.weight", (self.head_dim,)
            yield "self_attn.k_norm.weight", (self.head_dim,)
        yield "mlp.gate_proj.weight", (self.intermediate_size, hidden)
        yield "mlp.up_proj.weight", (self.intermediate_size, hidden)
        yield "mlp.down_proj.weight", (hidden, self.intermediate_size)
        yield "input_layernorm.weight", (hidden,)
        yield "post_attention_layernorm.weight", (hidden,)


def _qwen2(
    hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, vocabulary: int, source: str
) -> ModelShape:
    return ModelShape(
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=128,
        intermediate_size=intermediate,
        vocabulary_size=vocabulary,
        has_tied_embeddings=False,
        has_qk_norm=False,
        has_qkv_bias=True,
        source=source,
    )


def _qwen3(
    hidden: int, layers: int, heads: int, intermediate: int, *, has_tied_embeddings: bool, source: str
) -> ModelShape:
    return ModelShape(
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=8,
        head_dim=128,
        intermediate_size=intermediate,
        vocabulary_size=151_936,
        has_tied_embeddings=has_tied_embeddings,
        has_qk_norm=True,
        has_qkv_bias=False,
        source=source,
    )


_R1_1P5B = _qwen2(1536, 28, 12, 2, 8960, 151_936, "config.json of deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B")
_QWEN2P5_7B = _qwen2(3584, 28, 28, 4, 18_944, 152_064, "config.json of Qwen/Qwen2.5-7B")
_QWEN2P5_32B = _qwen2(5120, 64, 40, 8, 27_648, 152_064, "config.json of Qwen/Qwen2.5-32B")
_QWEN3_4B = _qwen3(2560, 36, 32, 9728, has_tied_embeddings=True, source="config.json of Qwen/Qwen3-4B")
_QWEN3_8B = _qwen3(4096, 36, 32, 12_288, has_tied_embeddings=False, source="config.json of Qwen/Qwen3-8B")
_QWEN3_14B = _qwen3(5120, 40, 40, 17_408, has_tied_embeddings=False, source="config.json of Qwen/Qwen3-14B")

KNOWN: dict[str, ModelShape] = {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": _R1_1P5B,
    "Qwen/Qwen2.5-7B": _QWEN2P5_7B,
    "Qwen/Qwen2.5-32B": _QWEN2P5_32B,
    "Qwen/Qwen3-4B": _QWEN3_4B,
    "Qwen/Qwen3-8B": _QWEN3_8B,
    "Qwen/Qwen3-8B-Base": _QWEN3_8B,
    "Qwen/Qwen3-14B": _QWEN3_14B,
    "Qwen/Qwen3-14B-Base": _QWEN3_14B,
    # Teachers: copies of the models above that were trained further, hence of the same shape.
    "hbx/JustRL-DeepSeek-1.5B": _R1_1P5B,
    "nvidia/Nemotron-Research-Reasoning-Qwen-1.5B": _R1_1P5B,
    "Keven16/Qwen3-4B-Non-Thinking-RL-Math-Step500": _QWEN3_4B,
    "Keven16/Qwen3-4B-Non-Thinking-RL-Code-Step300": _QWEN3_4B,
    "Open-Reasoner-Zero/Open-Reasoner-Zero-7B": _QWEN2P5_7B,
    "caiyuchen/DAPO-step-27": _QWEN3_8B,
    "BytedTsinghua-SIA/DAPO-Qwen-32B": _QWEN2P5_32B,
}
"""The models of the paper's recipes. A test holds their sums to the parameter counts that the hub shows."""


def shape_of(key: str, path: str, shapes: Mapping[str, str]) -> ModelShape:
    """Return the shape of the model that the setting `key` names as `path`.

    `shapes` says of a path which other model's shape it has: a known name, a folder or a `config.json`. Nothing is
    downloaded. Raises ConfigError when the shape cannot be known, or is of another kind than this arithmetic covers.
    """
    like = shapes.get(path, path)
    if like in KNOWN:
        return KNOWN[like]
    file = _config_file(like)
    if file is None:
        raise ConfigError(
            f"{key}={path}: nothing is known of the shape of {like}, and nothing is downloaded to plan; give a folder with "
            f"its config.json, or add --shape {path}=<a config.json, or one of {', '.join(list(KNOWN)[:8])}>"
        )
    return _read(file)


def _config_file(path: str) -> Path | None:
    folder = _TOY_MODELS / path.removeprefix("toy:") if path.startswith("toy:") else Path(path).expanduser()
    file = folder if folder.suffix == ".json" else folder / "config.json"
    return file if file.is_file() else None


def _read(file: Path) -> ModelShape:
    try:
        document = json.loads(file.read_text())
        config = document.get("text_config", document)
        kind = config["model_type"]
        if kind not in ("qwen2", "qwen3", "llama", "mistral"):
            raise ConfigError(
                f"{file}: model_type={kind}: planning knows dense models of the kinds qwen2, qwen3, llama and mistral; "
                "add --shape <path>=<a model of similar size>"
            )
        return ModelShape(
            hidden_size=config["hidden_size"],
            num_layers=config["num_hidden_layers"],
            num_heads=config["num_attention_heads"],
            num_kv_heads=config.get("num_key_value_heads", config["num_attention_heads"]),
            head_dim=config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
            intermediate_size=config["intermediate_size"],
            vocabulary_size=config["vocab_size"],
            has_tied_embeddings=bool(config.get("tie_word_embeddings", False)),
            has_qk_norm=kind == "qwen3",
            has_qkv_bias=kind == "qwen2",
            source=str(file),
        )
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, ConfigError):
            raise
        what = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be read ({error})"
        raise ConfigError(f"{file}: {what}; give the config.json of a Hugging Face model") from error
