"""The shape of a model, and its config.json in the Hugging Face layout (paper §2.2; design.md §2)."""

from __future__ import annotations

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

    def to_hf(self) -> dict[str, Any]:
        """What config.json says of it."""
        told: dict[str, Any] = {"rope_type": self.kind, "factor": self.factor}
        if self.kind == "llama3":
            told |= {"low_freq_factor": self.low, "high_freq_factor": self.high}
            told |= {"original_max_position_embeddings": self.original_context}
        return told


@dataclass(frozen=True)
class ModelConfig:
    """Every number that shapes a Llama 2 transformer. Defaults are the paper's where it gives one."""

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
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "sliding_window": (None,),
}


def _rope(hf: Mapping[str, Any], where: str) -> tuple[float, RopeScaling | None]:
    """Theta and scaling from either spelling (transformers 4: rope_theta, rope_scaling; 5: rope_parameters)."""
    rope = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
    theta = float(rope.get("rope_theta", hf.get("rope_theta", 10000.0)))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RopeScaling("linear", float(rope["factor"]))
    if kind == "llama3":
        waves = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
        return theta, RopeScaling(
            "llama3", float(rope["factor"]), *waves, int(rope["original_max_position_embeddings"])
        )
    raise BadInput(where, f"rope type {kind!r}", "'default', 'linear' or 'llama3'")


def config_from_hf(hf: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
    """Read config.json. Raises BadInput, naming the field, for a model that this core would not compute exactly."""
    for field, allowed in _FIXED.items():
        if hf.get(field, allowed[0]) not in allowed:
            raise BadInput(where, f"{field} = {hf[field]!r}", f"{field} = {allowed[0]!r}")
    try:
        heads = int(hf["num_attention_heads"])
        theta, scaling = _rope(hf, where)
        return ModelConfig(
            vocab_size=int(hf["vocab_size"]),
            dim=int(hf["hidden_size"]),
            n_layers=int(hf["num_hidden_layers"]),
            n_heads=heads,
            n_kv_heads=int(hf.get("num_key_value_heads") or heads),
            head_dim=int(hf.get("head_dim") or hf["hidden_size"] // heads),
            ffn_dim=int(hf["intermediate_size"]),
            max_seq_len=int(hf.get("max_position_embeddings", 2048)),
            norm_eps=float(hf.get("rms_norm_eps", 1e-6)),
            rope_theta=theta,
            rope_scaling=scaling,
            tie_embeddings=bool(hf.get("tie_word_embeddings", False)),
        )
    except KeyError as missing:
        raise BadInput(where, f"no field {missing}", "the keys of a LlamaForCausalLM config") from None
    except (ValueError, TypeError, ZeroDivisionError, AttributeError) as error:
        raise BadInput(where, str(error), "a Llama shape") from None
