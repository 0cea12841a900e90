"""How fast l2 generates on a GPU, as shares of what the GPU can do: `python -m tests.bench.generation gpu`.

The shape of Llama 2 7B in bf16 with random weights. A decode step reads each weight, and each key and value, once: its
bytes a second are held against those of a copy. Reading prompts is products of matrices: its operations a second are
held against those of one large product.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from l2.generate.decoder import Decoder
from l2.model.checkpoint import load_weights
from l2.model.config import ModelConfig
from l2.model.transformer import LanguageModel

LLAMA_7B = ModelConfig(
    vocab_size=32000, dim=4096, n_layers=32, n_heads=32, n_kv_heads=32, head_dim=128, ffn_dim=11008, max_seq_len=4096
)
CONTEXT = 512  # tokens that each row holds


def seconds(work: Callable[[], object], device: torch.device, count: int = 10) -> float:
    """Of one call: the median of `count`, after three that warm up."""
    taken = []
    for _ in range(count + 3):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[3:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def random_model(config: ModelConfig, device: torch.device) -> LanguageModel:
    """A bf16 model whose weights are drawn where they stay: in fp32 on the CPU a 7B would take 27 GB and minutes."""
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in LanguageModel(config).state_dict().items()}
    tensors = {name: torch.randn(shape, device=device, dtype=torch.bfloat16) * 0.02 for name, shape in shapes.items()}
    return load_weights(LanguageModel, config, tensors, "random")


def copied_bytes(device: torch.device, size: int) -> float:
    """Bytes a second that a copy of `size` bytes reads and writes."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / seconds(lambda: target.copy_(source), device)


def product_operations(device: torch.device, size: int) -> float:
    """Operations a second of a bf16 product of two square matrices."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / seconds(lambda: a @ b, device)


@torch.inference_mode()
def main(device: torch.device, config: ModelConfig = LLAMA_7B, context: int = CONTEXT, size: int = 8192) -> None:
    """Prints the table for LOG.md; a smaller shape tries it out anywhere."""
    model, rate = random_model(config, device), copied_bytes(device, 4 * size**2)
    operations = product_operations(device, size)
    weights = sum(weight.nbytes for weight in model.model.layers.parameters()) + model.lm_head.weight.nbytes
    per_token = 2 * 2 * config.n_layers * config.n_kv_heads * config.head_dim  # bytes of keys and values
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, bf16: copy {rate / 1e9:,.0f} GB/s, product {operations / 1e12:,.1f} TFLOP/s")
    for batch in (1, 64):
        decoder = Decoder(model, batch, context + 1)
        ids, held = [5] * batch, np.full(batch, context)
        taken = seconds(lambda: decoder.step(ids, held), device)  # noqa: B023  it is called at once
        share = (weights + batch * context * per_token) / taken / rate
        print(f"decode, batch {batch}, {context} tokens held: {batch / taken:,.0f} tokens/s, {share:.0%} of the copy")
        del decoder
    rows = [[5] * context for _ in range(16)]
    decoder = Decoder(model, 1, context + 1)
    taken = seconds(lambda: decoder.prefill(rows), device, 3)
    work = 16 * context * (weights + 2 * config.n_layers * config.n_heads * config.head_dim * context)
    print(
        f"prefill, 16 x {context}: {16 * context / taken:,.0f} tokens/s, {work / taken / operations:.0%} of the product"
    )
