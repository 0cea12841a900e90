"""How fast l2 generates, beside transformers and any program that reads llama2.c's file: see shell/bench.sh.

Weights are random: the work does not depend on them. No test asserts a time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as cmds/app.py sets it

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedModel

from l2.generate.decoder import Decoder
from l2.generate.engine import Sampling, generate
from l2.generate.scoring import last_scores
from l2.model.checkpoint import model_tensors, new_model, scalar_from
from l2.model.config import ModelConfig
from l2.model.convert import write_llama2c
from l2.model.device import keep_memory, use_all_cores
from l2.model.transformer import LanguageModel, ScalarModel
from tests.bench import gpu
from tests.bench.turns import Run, programs, rounds, table

SMALL = ModelConfig(
    vocab_size=4096, dim=256, n_layers=8, n_heads=8, n_kv_heads=4, head_dim=32, ffn_dim=768, max_seq_len=256
)
LARGER = ModelConfig(
    vocab_size=8192, dim=512, n_layers=8, n_heads=8, n_kv_heads=2, head_dim=64, ffn_dim=1408, max_seq_len=512
)
SHAPES = {"8M": SMALL, "8M-mha": replace(SMALL, n_kv_heads=8), "30M": LARGER}
KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}
PROMPT, NEW = 64, 192
Models = Mapping[str, Any]  # by kind of number


def timed(work: Callable[[], object], tokens: int) -> float:
    """Tokens a second of one call."""
    start = time.perf_counter()
    work()
    return tokens / (time.perf_counter() - start)


def prompts(config: ModelConfig, batch: int, length: int = PROMPT) -> Tensor:
    """Random ids [batch, length], none of them special."""
    return torch.randint(3, config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(0))


def copied(model: LanguageModel | ScalarModel, kind: type[PreTrainedModel]) -> PreTrainedModel:
    """The same weights in transformers."""
    config = LlamaConfig(**model.config.to_hf(scalar=isinstance(model, ScalarModel)))
    copy = kind(config)
    copy.load_state_dict(model_tensors(model), strict=not model.config.tie_embeddings)
    return copy.eval()


def ours_sampled(model: LanguageModel, given: Tensor, k: int) -> list[list[int]]:
    """Whole rows of ids: each prompt with each of its `k` answers of 192 tokens, plain sampling, 64 rows at once."""
    rows = given.tolist()
    made = generate(model, rows, range(len(rows)), Sampling(max_new_tokens=NEW), k=k, eos_id=-1, batch_size=64)
    return [row + answer.tokens for row, some in zip(rows, made, strict=True) for answer in some]


@torch.inference_mode()
def theirs_sampled(model: PreTrainedModel, given: Tensor, k: int) -> list[Tensor]:
    """The same by transformers, [64, 256] at a time."""
    how = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": True, "top_k": 0, "pad_token_id": 0}
    parts = given.split(64 // k)
    return [model.generate(x, attention_mask=torch.ones_like(x), num_return_sequences=k, **how) for x in parts]


def decode(batch: int, ours: Models, theirs: Models, peers: Mapping[str, Run]) -> dict[str, Run]:
    """Prompts of 64, 192 new tokens each; the prompts' own time counts. Programs run where the batch is 1."""
    given = prompts(ours["fp32"].config, batch)
    runs: dict[str, Run] = {}
    for kind in KINDS:
        runs[f"l2 {kind}"] = partial(timed, partial(ours_sampled, ours[kind], given, 1), batch * NEW)
    for kind in KINDS:
        runs[f"transformers {kind}"] = partial(timed, partial(theirs_sampled, theirs[kind], given, 1), batch * NEW)
    return runs | (dict(peers) if batch == 1 else {})


def prefill(ours: Models, theirs: Models) -> dict[str, Run]:
    """16 prompts of 64, up to the logits of what comes next."""
    given = prompts(ours["fp32"].config, 16)
    rows = given.tolist()
    runs: dict[str, Run] = {}
    for kind in KINDS:
        read = torch.inference_mode()(Decoder(ours[kind], 16, PROMPT + 1).prefill)
        runs[f"l2 {kind}"] = partial(timed, partial(read, rows), given.numel())
    for kind in KINDS:
        read = torch.inference_mode()(partial(theirs[kind], logits_to_keep=1, use_cache=True))
        runs[f"transformers {kind}"] = partial(timed, partial(read, given), given.numel())
    return runs


def best_of(ours: Models, theirs: Models, questions: int = 8, k: int = 8) -> dict[str, Run]:
    """K samples to each prompt, all scored by a reward model of the policy's size: answers a second.

    The reward model is in fp32, as `l2 rs-sample` has it, or in bf16 where the policy is, as --dtype bfloat16 has it.
    """
    given = prompts(ours["fp32"].config, questions)
    reward = scalar_from(ours["fp32"]).eval()
    judge = copied(reward, LlamaForSequenceClassification)
    rewards = {kind: deepcopy(reward).to(dtype) for kind, dtype in KINDS.items()}
    judges = {kind: deepcopy(judge).to(dtype) for kind, dtype in KINDS.items()}

    def scored(kind: str, by: str) -> list[float]:
        return last_scores(rewards[by], ours_sampled(ours[kind], given, k), 64)

    @torch.inference_mode()
    def judged(kind: str, by: str) -> list[Tensor]:
        return [judges[by](rows) for rows in theirs_sampled(theirs[kind], given, k)]

    runs: dict[str, Run] = {}
    for name, work in (("l2", scored), ("transformers", judged)):
        for kind, by in (("fp32", "fp32"), ("bf16", "fp32"), ("bf16", "bf16")):
            runs[f"{name} {kind}, reward {by}"] = partial(timed, partial(work, kind, by), questions * k)
    return runs


@torch.inference_mode()
def steps(decoder: Decoder, tokens: list[int], lengths_B: np.ndarray, count: int = 8) -> None:
    """The same decode step, again and again."""
    for _ in range(count):
        decoder.step(tokens, lengths_B)


def heads(count: int) -> None:
    """Milliseconds of a decode step by key/value heads, batch and tokens in the cache (paper Figure 24), bf16."""
    print("\n30M in bf16 by key/value heads: ms a step, tokens/s")
    for context, batch in ((c, b) for c in (128, 1024, 4096) for b in (1, 16, 64) if b * c <= 2**16):
        runs: dict[str, Run] = {}
        for name, kv_heads in (("MHA", 8), ("GQA", 2), ("MQA", 1)):
            config = replace(LARGER, n_kv_heads=kv_heads, max_seq_len=context + 1)
            decoder = Decoder(new_model(config).bfloat16().eval(), batch, context + 1)
            work = partial(steps, decoder, [5] * batch, np.full(batch, context))
            runs[name] = partial(timed, work, 8 * batch)
        for name, rates in rounds(runs, count).items():
            rate = statistics.median(rates)
            print(f"  context {context:5}, batch {batch:3}, {name}: {1e3 * batch / rate:8.2f} {rate:8,.0f}", flush=True)


def main() -> None:
    """Everything, or the parts named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help="of: decode prefill best-of heads (default: these), gpu")
    parser.add_argument("--shapes", nargs="+", default=["8M", "30M"], choices=SHAPES)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=COMMAND",
        help="a program timed at batch 1; {model} is llama2.c's file of version 0, the last number printed the rate",
    )  # fmt: skip
    asked = parser.parse_args()
    if asked.parts == ["gpu"]:
        return gpu.main(torch.device("cuda"))
    parts = asked.parts or ["decode", "prefill", "best-of", "heads"]
    keep_memory()
    threads = use_all_cores()
    print(f"torch {torch.__version__}, {threads} threads, {asked.rounds} rounds; {' '.join(sys.argv[1:])}")
    for name in asked.shapes:
        with tempfile.TemporaryDirectory() as folder:
            model, file = new_model(SHAPES[name]).eval(), Path(folder, "model.bin")
            write_llama2c(model, file, version=0)
            ours = {kind: deepcopy(model).to(dtype) for kind, dtype in KINDS.items()}
            theirs = {kind: copied(model, LlamaForCausalLM).to(dtype) for kind, dtype in KINDS.items()}
            for batch in asked.batches if "decode" in parts else ():
                runs = decode(batch, ours, theirs, programs(asked.peer, model=file))
                table(f"{name}, decode at batch {batch}", rounds(runs, asked.rounds), "new tokens/s")
            if "prefill" in parts:
                table(f"{name}, prefill", rounds(prefill(ours, theirs), asked.rounds), "tokens/s")
            if "best-of" in parts:
                runs = best_of(ours, theirs)
                table(f"{name}, best of 8 by a reward model", rounds(runs, min(3, asked.rounds)), "answers/s")
    if "heads" in parts:
        heads(asked.rounds)


if __name__ == "__main__":
    main()
