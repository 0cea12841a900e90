"""How fast l2 trains, beside transformers and any program that prints tokens a second: see shell/bench.sh.

A step is the forward and backward pass, clipping and AdamW, over 4,096 tokens. Contenders take turns within a round, so
that a slow minute of the machine hits all of them; medians over rounds, with the least and the most. No test asserts a
time. --memory tells instead how much each takes at most, in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as cmds/app.py sets it

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from l2.model.checkpoint import new_model
from l2.model.config import ModelConfig
from l2.model.device import keep_memory, use_all_cores
from l2.train.loop import Micro, Settings, prepare, update
from l2.train.meter import measured_peak
from l2.train.pretrain import packed_loss, window_micro
from tests.bench.generation import KINDS, SHAPES
from tests.bench.turns import Run, programs

TOKENS = 4096  # a step
BOS = 1


class Fixed:
    """Objective: the same random windows again and again, with a new document every `document` tokens."""

    def __init__(self, config: ModelConfig, micro_tokens: int, document: int = 0) -> None:
        random, T = np.random.default_rng(0), config.max_seq_len
        windows = random.integers(3, config.vocab_size, (TOKENS // T, T + 1))
        if document:
            windows[:, ::document] = BOS
        size = micro_tokens // T
        self.micros = [window_micro(windows[i : i + size], T, BOS) for i in range(0, len(windows), size)]

    def batch(self, step: int, rank: int = 0, world: int = 1) -> list[Micro]:
        """The same in each step."""
        return self.micros

    def validation(self) -> list[Micro]:
        """None."""
        return []

    def sums(self, model: Any, tensors: Any) -> Any:
        """The loss of pretraining."""
        return packed_loss(model, tensors)


def ours(config: ModelConfig, dtype: torch.dtype, micro: int, document: int = 0, **more: Any) -> Callable[[], object]:
    """A step of l2's loop: fp32 weights, products in `dtype`."""
    plan = Settings(steps=10**6, lr=1e-4, warmup=10, dtype=dtype, **more)
    objective = Fixed(config, micro, document)
    return partial(update, objective, prepare(new_model(config), objective, plan), plan)


def theirs(config: ModelConfig, dtype: torch.dtype, attention: str, compiled: bool) -> Callable[[], object]:
    """A step of transformers; in bf16 its weights and its optimizer are bf16 too, which is faster and less exact."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**config.to_hf(), attn_implementation=attention)).to(dtype).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    call = torch.compile(model) if compiled else model
    x, y = torch.randint(3, config.vocab_size, (2, TOKENS // config.max_seq_len, config.max_seq_len))

    def step() -> Tensor:
        logits = call(input_ids=x, use_cache=False).logits
        loss = F.cross_entropy(logits.float().flatten(0, 1), y.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


def rate(step: Callable[[], object], steps: int) -> float:
    """Tokens a second over `steps` of them."""
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return TOKENS * steps / (time.perf_counter() - start)


CONTENDERS: dict[str, Callable[[ModelConfig], Callable[[], object]]] = {
    "l2 bf16": lambda config: ours(config, torch.bfloat16, 4096),
    "l2 bf16, documents": lambda config: ours(config, torch.bfloat16, 4096, document=100),
    "l2 bf16, 2k": lambda config: ours(config, torch.bfloat16, 2048),
    "l2 bf16, compile": lambda config: ours(config, torch.bfloat16, 4096, compiled=True),
    "l2 fp32": lambda config: ours(config, torch.float32, 4096),
    "transformers default": lambda config: theirs(config, torch.float32, "sdpa", False),
    "transformers bf16": lambda config: theirs(config, torch.bfloat16, "sdpa", False),
    "transformers tuned": lambda config: theirs(config, torch.bfloat16, "eager", True),
}


def contenders(config: ModelConfig, parts: list[str]) -> dict[str, Callable[[], object]]:
    """By name; each is a step."""
    return {name: make(config) for name, make in CONTENDERS.items() if not parts or name in parts}


def memory(config: ModelConfig, name: str) -> None:
    """Prints the resident memory before a contender is made and the most it took in two steps, in MB."""

    def most() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

    before = most()
    rate(contenders(config, [name])[name], 2)
    print(f"  {name:22} {most():6,} MB, {before:,} before it", flush=True)


def main() -> None:
    """All contenders, or those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help="contenders by name (default: all)")
    parser.add_argument("--shapes", nargs="+", default=["8M", "30M"], choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="of a contender in a round")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=COMMAND",
        help="a program whose last number printed is tokens a second; {shape} is 8M or 30M",
    )  # fmt: skip
    parser.add_argument("--memory", action="store_true", help="peaks of memory and no times")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # a process of --memory
    asked = parser.parse_args()
    keep_memory()
    threads = use_all_cores()
    if asked.alone:
        return memory(SHAPES[asked.shapes[0]], asked.parts[0])
    if asked.memory:
        for shape in asked.shapes:
            print(f"{shape}, peak of resident memory", flush=True)
            for name in asked.parts or CONTENDERS:
                subprocess.run([sys.executable, "-m", __spec__.name, name, "--shapes", shape, "--alone"], check=True)
        return
    print(f"torch {torch.__version__}, {threads} threads, {asked.rounds} rounds of {asked.steps} steps")
    peaks = {name: measured_peak(torch.device("cpu"), dtype) for name, dtype in KINDS.items()}
    print("peak: " + ", ".join(f"{name} {peak / 1e9:.0f} GFLOP/s" for name, peak in peaks.items()))
    for shape in asked.shapes:
        config = SHAPES[shape]
        steps = contenders(config, asked.parts)
        runs: dict[str, Run] = {name: partial(rate, step, asked.steps) for name, step in steps.items()}
        runs |= programs(asked.peer, shape=shape)
        for step in steps.values():
            rate(step, 2)
        rates: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(asked.rounds):
            for name, run in runs.items():
                rates[name].append(run())
        base = statistics.median(rates.get("transformers default", [1.0]))
        print(f"\n{shape}, tokens/s; MFU against the peak of its dtype; over transformers' default")
        for name, values in rates.items():
            middle, kind = statistics.median(values), "bf16" if "bf16" in name or "tuned" in name else "fp32"
            mfu = middle * config.flops_per_token(config.max_seq_len) / peaks[kind]
            spread = f"[{min(values):,.0f}-{max(values):,.0f}]"
            print(f"  {name:22} {middle:8,.0f} {spread:16} {mfu:5.1%} {middle / base:5.2f}", flush=True)


if __name__ == "__main__":
    main()
