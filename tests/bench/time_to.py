"""How long l2 and its peers train until they predict held-out text with so many bits a byte: `time_to --home DIR`.

DIR is a quickstart's (runs/quickstart/seed-0: data/, tok.model, raw/documents.val.jsonl). All start from the same
weights and learn the same windows of its shards in the same order, with the same optimizer and schedule, each in a
process of its own; documents see one another, as peers have it. They take turns of a few steps, so that a slow minute
of the machine hits all, and leave when they have passed the target. Told are the seconds of training alone (compilers
and caches are warm before), to the point between two evaluations at which the line through them passes the target; the
losses, which should agree; and the peak memory of each process. Results gather in --out, a line an evaluation: with
--only, some at a time. No test asserts a time.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as cmds/app.py sets it

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

HELD_OUT = 64  # windows
PRESET = "nano"
Batch = tuple[Tensor, Tensor]  # tokens_BT and targets_BT, -1 where nothing is learned


class Material:
    """What all contenders share, as `prepare` wrote it to `folder`."""

    def __init__(self, folder: Path) -> None:
        arrays = np.load(folder / "windows.npz")
        self.lrs: list[float] = arrays["lrs"].tolist()
        self.bits_per_nat = 1 / math.log(2) / float(arrays["bytes"])
        tensors = {name: torch.from_numpy(arrays[name].astype(np.int64)) for name in arrays if arrays[name].ndim > 1}
        self.batches = list(zip(tensors["tokens"], tensors["targets"], strict=True))
        size = self.batches[0][0].shape[0]
        self.held_out = list(zip(*(tensors[f"val_{name}"].split(size) for name in ("tokens", "targets")), strict=True))
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.folder = folder

    def weights(self) -> dict[str, Tensor]:
        """By their names in the Hugging Face layout."""
        from safetensors.torch import load_file

        return load_file(self.folder / "model.safetensors")


def prepare(home: Path, folder: Path, steps: int, seed: int) -> None:
    """Windows of `steps` steps in l2's order, held-out windows and their bytes, learning rates, and weights."""
    from l2.files.jsonl import read_records
    from l2.model.checkpoint import new_model, save_model
    from l2.tokens.shards import Shard, write_shards
    from l2.tokens.tokenizer import load_tokenizer
    from l2.train.presets import find_preset
    from l2.train.pretrain import Pretraining
    from l2.train.schedule import cosine, warmup_of

    tokenizer, preset = load_tokenizer(home / "tok.model"), find_preset(PRESET)
    config, batch = preset.config(tokenizer.vocab_size), preset.batch_tokens // preset.seq_len
    records = read_records([str(home / "raw" / "documents.val.jsonl")], required=["text"])
    held_out = [Shard(path) for path in write_shards(records, tokenizer, folder, "val")]
    learned = [Shard(path) for path in sorted((home / "data").glob("train-*.bin"))]

    def objective(shards: list[Shard], batch: int) -> Pretraining:
        return Pretraining(shards, config.max_seq_len, batch, batch, seed, tokenizer.bos_id, cross_document=True)

    def windows(of: Pretraining, step: int) -> tuple[np.ndarray, np.ndarray]:
        (micro,) = of.batch(step)
        return micro.tensors["tokens_BT"].numpy(), micro.tensors["targets_BT"].numpy()

    order = objective(learned, batch)
    tokens, targets = (np.stack(some) for some in zip(*(windows(order, step) for step in range(steps)), strict=True))
    val_tokens, val_targets = windows(objective(held_out, HELD_OUT), 0)
    real = val_targets >= 0
    np.savez(
        folder / "windows.npz",
        tokens=tokens, targets=targets, val_tokens=val_tokens, val_targets=val_targets,
        bytes=tokenizer.byte_counter()(val_targets[real], val_tokens[real]),
        lrs=[cosine(step, steps, preset.lr, warmup_of(steps, 0.05)) for step in range(steps)],
    )  # fmt: skip
    save_model(new_model(config, seed), folder, tokenizer)


def ours(material: Material, dtype: torch.dtype) -> tuple[Callable[[int], float], Callable[[Batch], Tensor]]:
    """A step of l2's loop, and the summed loss of held-out windows."""
    from l2.model.checkpoint import load_model
    from l2.train.loop import Micro, Settings, prepare, update
    from l2.train.pretrain import packed_loss

    class Objective:
        def micro(self, batch: Batch) -> Micro:
            tokens, targets = batch
            places = torch.arange(tokens.shape[1]).expand_as(tokens).contiguous()
            tensors = {"tokens_BT": tokens, "positions_BT": places, "targets_BT": targets}
            return Micro(tensors, float((targets >= 0).sum()), tokens.numel())

        def batch(self, step: int, rank: int = 0, world: int = 1) -> list[Micro]:
            return [self.micro(material.batches[step])]

        def validation(self) -> list[Any]:
            return []

        def sums(self, model: Any, tensors: Any) -> Any:
            return packed_loss(model, tensors)

    steps, objective = len(material.batches), Objective()
    from l2.train.schedule import warmup_of

    settings = Settings(steps, max(material.lrs), warmup_of(steps, 0.05), dtype=dtype)
    training = prepare(load_model(material.folder).train(), objective, settings)

    def loss(batch: Batch) -> Tensor:
        training.compute.refresh()
        summed = training.compute(objective.micro(batch).tensors)["loss"]
        assert isinstance(summed, Tensor)
        return summed

    loss(material.batches[0]).backward()  # kernels are compiled, memory is there
    training.compute.zero_grad()
    training.model.zero_grad()
    return lambda step: float(update(objective, training, settings)["loss"]), loss


def peers(
    material: Material, model: nn.Module, logits: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor]
) -> tuple[Callable[[int], float], Callable[[Batch], Tensor]]:
    """A step of plain PyTorch with l2's settings (AdamW as l2/train/optim.py has it), and the same summed loss.

    plain: `logits` without torch.compile, for evaluation, which would compile again.
    """
    weights = list(model.parameters())
    groups = [
        {"params": [w for w in weights if w.dim() >= 2], "weight_decay": 0.1},
        {"params": [w for w in weights if w.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-5, fused=True)

    def loss(call: Callable[[Tensor], Tensor], batch: Batch, reduction: str) -> Tensor:
        x, y = batch
        return F.cross_entropy(call(x).float().flatten(0, 1), y.flatten(), ignore_index=-1, reduction=reduction)

    def step(number: int) -> float:
        for group in optimizer.param_groups:
            group["lr"] = material.lrs[number]
        mean = loss(logits, material.batches[number], "mean")
        mean.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(mean.detach())

    loss(logits, material.batches[0], "mean").backward()  # compiled, memory is there
    optimizer.zero_grad()
    return step, lambda batch: loss(plain, batch, "sum")


def transformers(
    material: Material, dtype: torch.dtype, tuned: bool
) -> tuple[Callable[[int], float], Callable[[Batch], Tensor]]:
    """As it comes; or tuned: compiled, with plain attention, products in bf16, weights in `dtype`, memory kept."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**material.config, attn_implementation="eager" if tuned else "sdpa")
    model = LlamaForCausalLM(config)
    model.load_state_dict(material.weights())
    model.to(dtype).train()

    def through(call: Any) -> Callable[[Tensor], Tensor]:
        def logits(x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=tuned and dtype == torch.float32):
                out: Tensor = call(input_ids=x, use_cache=False).logits
            return out

        return logits

    return peers(material, model, through(torch.compile(model) if tuned else model), through(model))


def litgpt(material: Material) -> tuple[Callable[[int], float], Callable[[Batch], Tensor]]:
    """litgpt's GPT with the same weights, all of it in bf16 and compiled (see train_peers.py)."""
    from litgpt import GPT, Config

    c = material.config
    D, V, heads = c["hidden_size"], c["vocab_size"], c["num_attention_heads"]
    config = Config(
        block_size=c["max_position_embeddings"], vocab_size=V, padded_vocab_size=V, n_layer=c["num_hidden_layers"],
        n_head=heads, n_query_groups=c["num_key_value_heads"], n_embd=D, head_size=D // heads, rotary_percentage=1.0,
        parallel_residual=False, bias=False, norm_class_name="RMSNorm", norm_eps=c["rms_norm_eps"],
        mlp_class_name="LLaMAMLP", intermediate_size=c["intermediate_size"],
    )  # fmt: skip
    model = GPT(config)
    model.load_state_dict(dict(litgpt_names(material.weights(), config.n_layer)))
    model.bfloat16().train()
    model.cos, model.sin = (table.bfloat16() for table in model.rope_cache())
    return peers(material, model, torch.compile(model), model)


def litgpt_names(weights: dict[str, Tensor], layers: int) -> Iterator[tuple[str, Tensor]]:
    """Weights by litgpt's names, queries, keys and values as one."""
    yield "lm_head.weight", weights["lm_head.weight"]
    yield "transformer.wte.weight", weights["model.embed_tokens.weight"]
    yield "transformer.ln_f.weight", weights["model.norm.weight"]
    names = {"norm_1": "input_layernorm", "norm_2": "post_attention_layernorm", "attn.proj": "self_attn.o_proj",
             "mlp.fc_1": "mlp.gate_proj", "mlp.fc_2": "mlp.up_proj", "mlp.proj": "mlp.down_proj"}  # fmt: skip
    for n in range(layers):
        for theirs, ours in names.items():
            yield f"transformer.h.{n}.{theirs}.weight", weights[f"model.layers.{n}.{ours}.weight"]
        qkv = [weights[f"model.layers.{n}.self_attn.{x}_proj.weight"] for x in "qkv"]
        yield f"transformer.h.{n}.attn.qkv.weight", torch.cat(qkv)


CONTENDERS: dict[str, Callable[[Material], tuple[Callable[[int], float], Callable[[Batch], Tensor]]]] = {
    "l2 bf16": lambda material: ours(material, torch.bfloat16),
    "l2 fp32": lambda material: ours(material, torch.float32),
    "transformers default": lambda material: transformers(material, torch.float32, False),
    "transformers tuned": lambda material: transformers(material, torch.float32, True),
    "transformers pure bf16": lambda material: transformers(material, torch.bfloat16, True),
    "litgpt": litgpt,
}


def work(name: str, folder: Path) -> None:
    """One contender: for each number read, that many steps and an evaluation, told in a line of JSON."""
    if not name.endswith("default"):  # as l2/model/device.py has it
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0), libc.mallopt(-1, 2**31 - 1)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    material = Material(folder)
    step, held_out = CONTENDERS[name](material)
    done, seconds = 0, 0.0
    for line in sys.stdin:
        losses, start = [], time.perf_counter()
        for _ in range(int(line)):
            losses.append(step(done))
            done += 1
        seconds += time.perf_counter() - start
        with torch.no_grad():
            bits = sum(float(held_out(batch)) for batch in material.held_out) * material.bits_per_nat
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        loss = sum(losses) / len(losses) if losses else None
        told = {"step": done, "seconds": seconds, "loss": loss, "bits_per_byte": bits, "peak_mb": peak}
        print(json.dumps(told), flush=True)


def reached(rows: list[dict[str, Any]], target: float) -> float | None:
    """Seconds at which the line through the evaluations around it passes the target; None where none is below it."""
    for before, after in pairwise(rows):
        if after["bits_per_byte"] <= target:
            share = (before["bits_per_byte"] - target) / (before["bits_per_byte"] - after["bits_per_byte"])
            return float(before["seconds"] + share * (after["seconds"] - before["seconds"]))
    return None


def table(out: Path, target: float) -> None:
    """What all contenders in `out` have come to."""
    found = {name: out / f"{name}.jsonl" for name in CONTENDERS}
    rows = {name: [json.loads(line) for line in path.open()] for name, path in found.items() if path.exists()}
    last = min(some[-1]["step"] for some in rows.values())
    print(f"\n{'':24} {'seconds to ' + str(target):>15} {'bits per byte, loss at ' + str(last):>28} {'peak':>8}")
    for name, some in rows.items():
        at = next(row for row in some if row["step"] == last)
        took = reached(some, target)
        told = "not reached" if took is None else f"{took:.1f}"
        loss = "" if at["loss"] is None else f"{at['loss']:.4f}"
        print(f"{name:24} {told:>15} {at['bits_per_byte']:19.4f} {loss:>8} {some[-1]['peak_mb']:>5} MB")


def race(names: list[str], out: Path, target: float, steps: int, every: int, pythons: dict[str, str]) -> None:
    """Let contenders train in turns until each has passed the target, or the steps are done."""
    running: dict[str, subprocess.Popen[str]] = {}
    for name in names:
        argv = [pythons.get(name, sys.executable), "-m", "tests.bench.time_to", "--worker", name, "--out", str(out)]
        running[name] = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        (out / f"{name}.jsonl").unlink(missing_ok=True)
        told = turn(running[name], out / f"{name}.jsonl", 0)  # one after another: starting is not part of the race
        print(f"{name}: {told['bits_per_byte']:.4f} bits per byte", flush=True)
    while running:
        for name, process in list(running.items()):
            told = turn(process, out / f"{name}.jsonl", every)
            print(f"{name}: " + ", ".join(f"{key} {value:.5g}" for key, value in told.items()), flush=True)
            if told["bits_per_byte"] <= target or told["step"] + every > steps:
                process.communicate()
                del running[name]


def turn(process: subprocess.Popen[str], path: Path, steps: int) -> dict[str, Any]:
    """A turn of one contender, added to `path`."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{steps}\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{path.stem} ended")
    with path.open("a") as f:
        f.write(line)
    told: dict[str, Any] = json.loads(line)
    return told


def main() -> None:
    """All contenders, or those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="a quickstart's directory")
    parser.add_argument("--out", type=Path, default=Path("runs/time-to"))
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, help="default: all but litgpt, which needs --litgpt")
    parser.add_argument("--target", type=float, default=2.2, help="bits per byte")
    parser.add_argument("--steps", type=int, default=240, help="of the schedule, 4,096 tokens each")
    parser.add_argument("--every", type=int, default=20, help="steps between evaluations: a turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--litgpt", metavar="PYTHON", help="of an environment that has litgpt")
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        return work(asked.worker, asked.out)
    asked.out.mkdir(parents=True, exist_ok=True)
    prepare(asked.home, asked.out, asked.steps, asked.seed)
    names = asked.only or [name for name in CONTENDERS if name != "litgpt" or asked.litgpt]
    race(names, asked.out, asked.target, asked.steps, asked.every, {"litgpt": asked.litgpt} if asked.litgpt else {})
    table(asked.out, asked.target)


if __name__ == "__main__":
    main()
