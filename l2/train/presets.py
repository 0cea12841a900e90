"""Model shapes and their training settings: the paper's columns (Table 1, §2.2) and ours for small machines."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from l2.files.errors import UsageError
from l2.model.config import ModelConfig


@dataclass(frozen=True)
class Preset:
    """One column: shape, learning rate, and the global batch in tokens."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    multiple_of: int
    ffn_multiplier: float
    seq_len: int
    lr: float
    batch_tokens: int
    warmup: int | None = None  # steps; None: 5 % of the run (ours)
    attention: str | None = None  # another than the shape's own, see `with_attention`

    def config(self, vocab_size: int, seq_len: int | None = None) -> ModelConfig:
        """The shape with a vocabulary and, unless it is the preset's, a context length."""
        config = ModelConfig(
            vocab_size=vocab_size,
            dim=self.dim,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads,
            head_dim=self.dim // self.n_heads,
            ffn_dim=ffn_hidden(self.dim, self.multiple_of, self.ffn_multiplier),
            max_seq_len=seq_len or self.seq_len,
        )
        return with_attention(config, self.attention, self.multiple_of) if self.attention else config


ATTENTIONS = ("mha", "gqa", "mqa")
WIDTHS = 256  # a widened feed-forward is a multiple of this, or of less where the preset's is (ours)


def with_attention(config: ModelConfig, kind: str, multiple_of: int = WIDTHS) -> ModelConfig:
    """The shape with keys and values of every head (mha), of 8 groups (gqa) or of one (mqa), at equal parameters.

    What attention gives up the feed-forward gets, to the nearest multiple (paper A.2.1, which widens it by 1.3 for gqa
    and 1.33 for mqa: a little more than equal). A shape that has that attention already is left alone, its number of
    groups too.
    """
    grouped = config.n_kv_heads if 1 < config.n_kv_heads < config.n_heads else min(8, config.n_heads)
    groups = {"mha": config.n_heads, "gqa": grouped, "mqa": 1}[kind]
    if groups == config.n_kv_heads:
        return config
    freed = 2 * config.dim * config.head_dim * (config.n_kv_heads - groups)  # weights of a layer
    step = min(multiple_of, WIDTHS)
    width = step * round((config.ffn_dim + freed / (3 * config.dim)) / step)
    return replace(config, n_kv_heads=groups, ffn_dim=width)


def ffn_hidden(dim: int, multiple_of: int, multiplier: float = 1.0) -> int:
    """Feed-forward width: 2/3 of 4·dim, times a multiplier, rounded up (paper.md §1.4, Meta's reference code)."""
    return multiple_of * math.ceil(int(multiplier * int(8 * dim / 3)) / multiple_of)


# fmt: off
PRESETS = {  #          dim layers heads kv  multiple mult  seq   lr    batch tokens  warm-up
    "nano":  Preset(    128,   4,   4,   2,   32,  1.0,  256, 3e-3,   4_096),
    "tiny":  Preset(    256,   8,   8,   4,   64,  1.0,  512, 1e-3,  32_768),
    "small": Preset(    512,   8,   8,   2,  128,  1.0, 1024, 6e-4, 131_072),
    "1b":    Preset(  2_048,  16,  32,   8,  256,  1.0, 4096, 3e-4, 1_048_576),
    "7b":    Preset(  4_096,  32,  32,  32,  256,  1.0, 4096, 3e-4, 4_194_304, 2000),
    "13b":   Preset(  5_120,  40,  40,  40,  256,  1.0, 4096, 3e-4, 4_194_304, 2000),
    "34b":   Preset(  8_192,  48,  64,   8,  256,  1.0, 4096, 1.5e-4, 4_194_304, 2000),
    "70b":   Preset(  8_192,  80,  64,   8, 4096,  1.3, 4096, 1.5e-4, 4_194_304, 2000),
}
# fmt: on
PAPERS = ("7b", "13b", "34b", "70b")  # 34b's shape is Code Llama's: the paper gives none


def find_preset(name: str) -> Preset:
    """The preset of that name: "7b", or with another attention "7b-mqa". Raises UsageError with those there are."""
    shape, dash, attention = name.partition("-")
    if shape not in PRESETS or (dash and attention not in ATTENTIONS):
        variants = ", ".join(f"-{kind}" for kind in ATTENTIONS)
        raise UsageError(f"--preset {name}: choose one of {', '.join(PRESETS)}, and {variants} of each")
    return replace(PRESETS[shape], attention=attention) if dash else PRESETS[shape]


def choose_preset(tokens: int, vocab_size: int, on_gpu: bool) -> str:
    """The largest of our shapes that `tokens` feed with 20 a parameter (Hoffmann et al. 2022), at least nano.

    On a CPU no larger than small: more would take weeks (ours).
    """
    names = ["nano", "tiny", "small", *(["1b"] if on_gpu else [])]
    fed = [name for name in names if 20 * PRESETS[name].config(vocab_size).parameters <= tokens]
    return fed[-1] if fed else "nano"
