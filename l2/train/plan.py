"""What a run will take: parameters, memory, work, time and energy, told before it starts (`--dry-run`)."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from l2.files.errors import UsageError
from l2.model.config import ModelConfig
from l2.train.meter import Energy, carbon, measured_peak

FRACTION = 0.4  # of the peak, at which a run is expected to compute (ours: LOG.md, and the paper's runs on A100s)
STATE_BYTES = 16  # a weight: itself, its gradient and AdamW's two means, all fp32


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank, by what they hold."""

    state: int  # its slice of weights, gradients and optimizer
    gathered: int  # what it computes with: a copy of the weights, or, cut over ranks, two layers and the embeddings
    activations: int  # kept for the backward pass
    logits: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.state + self.gathered + self.activations + self.logits


def memory(
    config: ModelConfig,
    dtype: torch.dtype,
    tokens: int,
    ranks: int = 1,
    recompute: str = "none",
    fused: bool = True,
    chunk: int = 4096,
) -> Memory:
    """Of training on micro-batches of `tokens`, the weights cut over `ranks`: counted, not measured (ours).

    A layer keeps per token its input, that with attention added, two norms, queries, keys, values, what attention
    mixed, gate, up and their product; no attention here keeps its scores. Logits become their own gradient on a CPU;
    elsewhere they stand beside an fp32 copy and its gradient.
    """
    size = dtype.itemsize
    embeddings = (1 if config.tie_embeddings else 2) * config.vocab_size * config.dim
    layer = (config.parameters - embeddings - config.dim) // max(1, config.n_layers)
    gathered = size * (embeddings + 2 * layer) if ranks > 1 else (size * config.parameters if size < 4 else 0)
    heads, keys = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    inner = 3 * config.dim + 2 * heads + 4 * keys + 3 * config.ffn_dim
    kept = {"none": config.dim + inner, "selective": 4 * config.dim, "full": config.dim}[recompute]
    once = 0 if recompute == "none" else inner  # of the layer that is computed again just now
    activations = size * tokens * (config.n_layers * kept + once)
    logits = (size if fused else size + 8) * min(tokens, chunk) * config.vocab_size
    return Memory(STATE_BYTES * config.parameters // ranks, gathered, activations, logits)


def check_room(parameters: int, device: torch.device, ranks: int, local: int) -> None:
    """Raises UsageError where the state of `local` of `ranks` alone is larger than the memory of this machine."""
    state = STATE_BYTES * parameters // ranks
    if device.type == "cuda":
        what, room = str(device), torch.cuda.get_device_properties(device).total_memory
    else:
        what, room, state = "this machine", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), state * local
    if state > room:
        raise UsageError(
            f"weights, gradients and optimizer take {state / 2**30:,.1f} GiB, and {what} has {room / 2**30:,.1f}; take "
            "a smaller model or more ranks"
        )


@dataclass(frozen=True)
class Cost:
    """What a run is expected to take."""

    flops: float
    seconds: float
    joules: float
    grams: float  # of CO2 equivalent


def cost(config: ModelConfig, tokens: float, device: torch.device, dtype: torch.dtype, ranks: int = 1) -> Cost:
    """Of training on `tokens` by `ranks` devices such as this one, each at FRACTION of its measured peak."""
    flops = config.flops_per_token(config.max_seq_len) * tokens
    seconds = flops / (FRACTION * measured_peak(device, dtype) * ranks)
    joules = Energy(device).watts * seconds * ranks
    return Cost(flops, seconds, joules, carbon(joules))
