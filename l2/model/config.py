"""The shape of a model, and its config.json in the Hugging Face layout (paper §2.2; design.md §2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from l2.files.errors import BadInput


@dataclass(frozen=True)
class RopeScaling:
    """Rotary frequencies stretched to a longer context than a model was trained on.

    "linear" divides all of them by `factor` (Chen et al. 2023). "llama3" divides the slow ones, whose wave is longer
    than original_context / low, keeps those whose wave is shorter than original_context / high, and goes from one to
    the other in between (Llama 3.1).
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low: float = 1.0
    high: float = 4.0
    original_context: int = 8192

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ValueError(f"a rope factor of {self.factor}")
        if not 0 < self.low < self.high or self.original_context < 1:
            raise ValueError(f"rope waves from {self.low} to {self.high} in a context of {self.original_context}")

    def to_hf(self) -> dict[str, Any]:
        """What config.json says of it."""
        told: dict[str, Any] = {"rope_type": self.kind, "factor": self.factor}
        if self.kind == "llama3":
            told |= {"low_freq_factor": self.low, "high_freq_factor": self.high}
            told |= {"original_max_position_embeddings": self.original_context}
        return told


@dataclass(frozen=True)
class ModelConfig:
    """Every number that shapes a Llama 2 transformer. Defaults are the paper's where it gives one.

    Raises ValueError, naming the field, for numbers of which no transformer can be built.
    """

    vocab_size: int
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_dim: int
    max_seq_len: int = 4096
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        for field, value in vars(self).items():
            numeric, may_be_zero = type(value) in (int, float), field in ("n_layers", "norm_eps")  # no layers: a bigram
            if numeric and not (value > 0 or (value == 0 and may_be_zero)):
                raise ValueError(f"{field} {value}, which is too small")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim}, of which rotary embeddings can't make pairs")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}")

    @property
    def parameters(self) -> int:
        """How many weights a language model of this shape has."""
        attention = 2 * self.dim * self.head_dim * (self.n_heads + self.n_kv_heads)
        layer = attention + 3 * self.dim * self.ffn_dim + 2 * self.dim
        embeddings = self.vocab_size * self.dim * (1 if self.tie_embeddings else 2)
        return embeddings + self.n_layers * layer + self.dim

    def flops_per_token(self, seq: int) -> float:
        """FLOPs to train on one token at context `seq`: 6 for each weight in a product, plus causal attention."""
        matmul = self.parameters - self.vocab_size * self.dim * (0 if self.tie_embeddings else 1)
        return 6.0 * matmul + 6.0 * self.n_layers * self.n_heads * self.head_dim * seq

    def common_flops_per_token(self, seq: int) -> float:
        """The same as most trainers count it (Chowdhery et al. 2022): with the lookup of the embedding, as if attention
        looked at the future too."""
        return 6.0 * self.parameters + 12.0 * self.n_layers * self.n_heads * self.head_dim * seq

    def to_hf(self, *, scalar: bool = False) -> dict[str, Any]:
        """The config.json that transformers, vLLM and llama.cpp read; `scalar` for a reward or value model."""
        config: dict[str, Any] = {
            "architectures": ["LlamaForSequenceClassification" if scalar else "LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": self.dim,
            "intermediate_size": self.ffn_dim,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.max_seq_len,
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": self.rope_scaling.to_hf() if self.rope_scaling else None,
            "attention_bias": False,
            "mlp_bias": False,
            "initializer_range": 0.02,
            "vocab_size": self.vocab_size,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "tie_word_embeddings": self.tie_embeddings,
            "use_cache": True,
        }
        if scalar:
            config |= {"num_labels": 1, "id2label": {"0": "reward"}, "label2id": {"reward": 0}}
        return config


# What each field must be for this core to be exact; anything else is refused by name.
_FIXED = {
    "model_type": ("llama",),
    "hidden_act": ("silu", "swish"),  # two names of one function
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "sliding_window": (None,),
    "partial_rotary_factor": (1.0, None),
    "quantization_config": (None,),
}


def _check_fixed(fields: Mapping[str, Any], where: str) -> None:
    for field, allowed in _FIXED.items():
        if fields.get(field, allowed[0]) not in allowed:
            raise BadInput(where, f"{field} = {fields[field]!r}", f"{field} = {allowed[0]!r}")


def size_of(fields: Mapping[str, Any], field: str, where: str, default: int | None = None, *, least: int = 1) -> int:
    """A field that counts something; `default` where it is missing or null. Raises BadInput, naming the field."""
    value = default if fields.get(field) is None else fields[field]
    if value is None:
        raise BadInput(where, f"no field {field!r}", "the shape of a Llama")
    if type(value) is not int or value < least:
        raise BadInput(where, f"{field} = {value!r}", f"{field} as an integer of at least {least}")
    return value


def _number(fields: Mapping[str, Any], field: str, where: str, default: float | None = None) -> float:
    """A field that measures something; `default` where it is missing. Raises BadInput, naming the field."""
    value = fields.get(field, default)
    if field not in fields and default is None:
        raise BadInput(where, f"no field {field!r}", "the keys of a LlamaForCausalLM config")
    if type(value) not in (int, float) or not math.isfinite(value):
        raise BadInput(where, f"{field} = {value!r}", f"{field} as a number")
    return float(value)


def _rope(hf: Mapping[str, Any], where: str) -> tuple[float, RopeScaling | None]:
    """Theta and scaling from either spelling (transformers 4: rope_theta, rope_scaling; 5: rope_parameters)."""
    field = "rope_parameters" if hf.get("rope_parameters") else "rope_scaling"
    rope = hf.get(field) or {}
    if not isinstance(rope, Mapping):
        raise BadInput(where, f"{field} = {rope!r}", f"{field} as an object")
    _check_fixed({"partial_rotary_factor": rope.get("partial_rotary_factor")}, where)  # where transformers 5 has it
    theta = _number(rope if "rope_theta" in rope else hf, "rope_theta", where, 10000.0)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RopeScaling("linear", _number(rope, "factor", where))
    if kind == "llama3":
        names = "factor", "low_freq_factor", "high_freq_factor"
        factor, low, high = (_number(rope, name, where) for name in names)
        return theta, RopeScaling("llama3", factor, low, high, size_of(rope, "original_max_position_embeddings", where))
    raise BadInput(where, f"rope type {kind!r}", "'default', 'linear' or 'llama3'")


def config_from_hf(hf: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
    """Read config.json. Raises BadInput, naming the field, for a model that this core would not compute exactly."""
    _check_fixed(hf, where)
    heads, dim = size_of(hf, "num_attention_heads", where), size_of(hf, "hidden_size", where)
    try:
        theta, scaling = _rope(hf, where)
        return ModelConfig(
            vocab_size=size_of(hf, "vocab_size", where),
            dim=dim,
            n_layers=size_of(hf, "num_hidden_layers", where, least=0),
            n_heads=heads,
            n_kv_heads=size_of(hf, "num_key_value_heads", where, heads),
            head_dim=size_of(hf, "head_dim", where, dim // heads),
            ffn_dim=size_of(hf, "intermediate_size", where),
            max_seq_len=size_of(hf, "max_position_embeddings", where, 2048),
            norm_eps=_number(hf, "rms_norm_eps", where, 1e-6),
            rope_theta=theta,
            rope_scaling=scaling,
            tie_embeddings=bool(hf.get("tie_word_embeddings", False)),
        )
    except ValueError as error:
        raise BadInput(where, str(error), "a Llama shape") from None
