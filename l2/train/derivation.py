"""Why each number of a run is what it is, in sentences (`l2 pretrain --dry-run`)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from l2.model.config import ModelConfig
from l2.train.loop import Settings
from l2.train.presets import PAPERS, Preset

CHINCHILLA = 20  # tokens a parameter, of the best use of a given amount of work (Hoffmann et al. 2022)
PAPER_TOKENS = 2e12  # of every model (paper Table 1)


def _in_layers(config: ModelConfig) -> int:
    """Parameters without the embeddings and the output."""
    return config.parameters - config.vocab_size * config.dim * (1 if config.tie_embeddings else 2)


def suggested_batch(config: ModelConfig) -> float:
    """Tokens a step by DeepSeek LLM's law, 0.292 · C^0.3271 (Bi et al. 2024, Eq. 1), with C of CHINCHILLA tokens.

    C counts the work as they do: 6 · N + 12 · L · D · T a token, without embeddings and output.
    """
    attention = 12 * config.n_layers * config.n_heads * config.head_dim * config.max_seq_len
    work = (6 * _in_layers(config) + attention) * CHINCHILLA * config.parameters
    return float(0.2920 * work**0.3271)


def suggested_lr(config: ModelConfig) -> float:
    """Peak learning rate by 0.003239 - 0.0001395 · ln N, N the parameters of the layers (Kaplan et al. 2020, Eq. D.1).

    Fitted up to N of 1.5e9, and not to be trusted far beyond.
    """
    return 0.003239 - 0.0001395 * math.log(_in_layers(config))


def derive(
    name: str, preset: Preset, config: ModelConfig, there: int, settings: Settings, batch_tokens: int
) -> Iterator[str]:
    """Shape, parameters, tokens, batch, learning rate and schedule of a run on shards of `there` tokens."""
    name = name.partition("-")[0]
    yield _shape(preset, config)
    yield _parameters(config)
    yield _tokens(name, config, there, settings.steps * batch_tokens)
    yield _batch(name, preset, config, batch_tokens)
    yield _rate(name, preset, config, settings.lr)
    share = (
        "the paper's 2,000 steps, at most half the run"
        if preset.warmup
        else "5 % of the steps, at least 5, at most half the run (ours)"
    )
    yield f"schedule: warm-up of {settings.warmup:,} steps ({share}), then a cosine to 10 % of the peak (paper §2.2)"


def _shape(preset: Preset, config: ModelConfig) -> str:
    kind = {config.n_heads: "multi-head", 1: "multi-query"}.get(config.n_kv_heads, "grouped-query")
    heads = f"{config.n_heads} heads of {config.head_dim}, {config.n_kv_heads} of keys and values ({kind})"
    before = replace(preset, attention=None).config(config.vocab_size)
    if before.n_kv_heads != config.n_kv_heads:
        times = config.ffn_dim / before.ffn_dim
        why = f"{times:.2f} times the {before.ffn_dim:,} of {before.n_kv_heads}, for equal parameters (paper A.2.1)"
    else:
        more = f" times {preset.ffn_multiplier:g}" if preset.ffn_multiplier != 1.0 else ""
        why = f"8/3 of {config.dim:,}{more}, rounded up to a multiple of {preset.multiple_of:,} (SwiGLU, paper §2.2)"
    return f"shape: {config.n_layers} layers of {config.dim:,}, {heads}; feed-forward {config.ffn_dim:,}: {why}"


def _parameters(config: ModelConfig) -> str:
    attention = 2 * config.dim * config.head_dim * (config.n_heads + config.n_kv_heads)
    feed_forward, norms = 3 * config.dim * config.ffn_dim, 2 * config.dim
    layer = f"{attention:,} attention, {feed_forward:,} feed-forward, {norms:,} norms"
    ends = f"2 of {config.vocab_size:,} x {config.dim:,} for embedding and output, and the last norm's {config.dim:,}"
    return f"parameters: {config.parameters:,} = {config.n_layers} layers of ({layer}) + {ends}"


def _tokens(name: str, config: ModelConfig, there: int, read: int) -> str:
    best = CHINCHILLA * config.parameters
    paper = f"; the paper reads {PAPER_TOKENS:.3g} (Table 1)" if name in PAPERS else ""
    return (
        f"tokens: {read:.3g} are read, {read / config.parameters:.2g} a parameter, in {read / there:.2g} epochs of the "
        f"shards' {there:.3g}; best for the work is {best:.3g}, {CHINCHILLA} a parameter (Hoffmann et al. 2022){paper}"
    )


def _batch(name: str, preset: Preset, config: ModelConfig, batch_tokens: int) -> str:
    law = f"at {CHINCHILLA} tokens a parameter DeepSeek LLM's law (Bi et al. 2024) says {suggested_batch(config):,.0f}"
    if name in PAPERS:
        why = f"the paper's is {preset.batch_tokens:,} (§2.2); {law}"
    elif name == "nano":
        why = f"the preset's is {preset.batch_tokens:,}, for many steps on little text (ours); {law}"
    else:
        why = f"the preset's is {preset.batch_tokens:,}; {law}"
    return f"batch: {batch_tokens:,} tokens a step; {why}"


def _rate(name: str, preset: Preset, config: ModelConfig, lr: float) -> str:
    rule = f"the rule of Kaplan et al. (2020) says {suggested_lr(config):.2g}"
    if name in PAPERS:
        return f"learning rate: {lr:g} at the peak; the paper's is {preset.lr:g} (Table 1)"
    short = ", for short runs (ours)" if name == "nano" else ""
    return f"learning rate: {lr:g} at the peak; the preset's is {preset.lr:g}{short}; {rule}"
