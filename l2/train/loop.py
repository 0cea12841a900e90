"""The one training loop: pretrain, sft and rm-train differ in their objective alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from l2.files.errors import L2Error, Stopped
from l2.files.manifest import Run
from l2.files.progress import OnProgress, ignore
from l2.model.checkpoint import AnyModel, read_weights, save_model
from l2.tokens.tokenizer import Tokenizer
from l2.train.checkpoints import Log, latest_step, load_step, save_step
from l2.train.meter import measured_peak
from l2.train.optim import adamw, load_optimizer, optimizer_tensors, take_step
from l2.train.schedule import cosine
from l2.train.stop import stop_wish

Sums = dict[str, Tensor | float]


@dataclass
class Micro:
    """One micro-batch: what goes through the model at once.

    count: by what the loss is divided, summed over the global batch (tokens learned, or pairs).
    tokens: how many tokens it computes, for the meters.
    """

    tensors: dict[str, Tensor]
    count: float
    tokens: int

    def to(self, device: torch.device) -> dict[str, Tensor]:
        """The tensors on `device`."""
        return {name: tensor.to(device, non_blocking=True) for name, tensor in self.tensors.items()}


class Objective(Protocol):
    """What a stage trains on and how it is judged."""

    def batch(self, step: int) -> list[Micro]:
        """The micro-batches of a step: a function of the step alone."""

    def validation(self) -> list[Micro]:
        """Held-out micro-batches, or none."""

    def sums(self, model: Any, tensors: Mapping[str, Tensor]) -> Sums:
        """ "loss" and other quantities, each summed (not averaged) over the micro-batch."""


@dataclass(frozen=True)
class Settings:
    """How to train. Defaults are the paper's (§2.2)."""

    steps: int
    lr: float
    warmup: int
    min_lr: float = 0.1  # of the peak
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    dtype: torch.dtype = torch.float32  # of the products; weights and optimizer stay fp32
    save_every: int = 500
    eval_every: int = 100
    keep: int = 2


@dataclass
class Training:
    """The state of a run: what a checkpoint holds."""

    model: AnyModel
    optimizer: torch.optim.Optimizer
    step: int = 0
    tokens: int = 0
    started: float = field(default_factory=time.monotonic)


def number(value: Tensor | float) -> float:
    """A summed quantity as a plain number."""
    return float(value.detach()) if isinstance(value, Tensor) else value


def means(objective: Objective, model: AnyModel, micros: Sequence[Micro], dtype: torch.dtype) -> dict[str, float]:
    """Every quantity of the objective over `micros`, divided by their count, without gradients."""
    total: dict[str, float] = {}
    with torch.no_grad(), torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):
        for micro in micros:
            for name, value in objective.sums(model, micro.to(model.device)).items():
                total[name] = total.get(name, 0.0) + number(value)
    count = sum(micro.count for micro in micros)
    return {name: value / count for name, value in total.items()}


def update(objective: Objective, training: Training, settings: Settings) -> dict[str, float]:
    """One optimizer step: gradients of the global batch's mean loss, whatever the micro-batches (design.md §4.3)."""
    model, step = training.model, training.step
    micros = objective.batch(step)
    count = sum(micro.count for micro in micros)
    line: dict[str, float] = {}
    for micro in micros:
        with torch.autocast(model.device.type, settings.dtype, enabled=settings.dtype != torch.float32):
            sums = objective.sums(model, micro.to(model.device))
        loss = sums["loss"]
        assert isinstance(loss, Tensor)
        (loss / count).backward()  # type: ignore[no-untyped-call]
        for name, value in sums.items():
            line[name] = line.get(name, 0.0) + number(value) / count
    lr = cosine(step, settings.steps, settings.lr, settings.warmup, settings.min_lr)
    if not math.isfinite(line["loss"]):
        raise L2Error(f"step {step + 1}: the loss is {line['loss']}; try a lower --lr (now {settings.lr:g})")
    norm = take_step(training.optimizer, model.parameters(), lr, settings.grad_clip)
    training.step += 1
    training.tokens += sum(micro.tokens for micro in micros)
    return {"step": training.step, "tokens": training.tokens, **line, "lr": lr, "grad_norm": norm}


def _resume(run: Run, model: AnyModel, settings: Settings) -> Training:
    training = Training(model, adamw(model, weight_decay=settings.weight_decay))
    path = latest_step(run.dir)
    if path is not None:
        tensors, state = load_step(path)
        model.load_state_dict(read_weights(path, device=model.device), strict=not model.config.tie_embeddings)
        load_optimizer(training.optimizer, model, tensors)
        training.step, training.tokens = state["step"], state["tokens"]
    return training


def _save(run: Run, training: Training, tokenizer: Tokenizer, settings: Settings) -> None:
    def models(path: Path) -> None:
        save_model(training.model, path, tokenizer)

    optimizer = optimizer_tensors(training.optimizer, training.model)
    save_step(run.dir, training.step, models, optimizer, {"tokens": training.tokens}, settings.keep)
    run.save(tokens=training.tokens)


def train(
    model: AnyModel,
    objective: Objective,
    settings: Settings,
    run: Run,
    tokenizer: Tokenizer,
    *,
    on_progress: OnProgress = ignore,
    on_log: Callable[[dict[str, Any]], None] = lambda line: None,
) -> dict[str, Any]:
    """Train `model` (fp32 weights) into `run.dir`, going on from its newest checkpoint; returns the last log line.

    Raises Stopped after saving when a signal asks for it, and L2Error when the loss is no longer a number.
    """
    model.train()
    training = _resume(run, model, settings)
    peak = measured_peak(model.device, settings.dtype)
    log = Log(run.dir, training.step)
    with stop_wish() as wish:
        while training.step < settings.steps:
            start, tokens = time.monotonic(), training.tokens
            line: dict[str, Any] = update(objective, training, settings)
            rate = (training.tokens - tokens) / (time.monotonic() - start)
            flops = model.config.flops_per_token(model.config.max_seq_len)
            line |= {"tokens_per_s": round(rate, 1), "mfu": round(rate * flops / peak, 4)}
            last = training.step == settings.steps
            if (last or training.step % settings.eval_every == 0) and (held_out := objective.validation()):
                model.eval()
                values = means(objective, model, held_out, settings.dtype)
                model.train()
                line |= {f"val_{name}": value for name, value in values.items()}
            log.write(line)
            on_log(line)
            on_progress(training.step, settings.steps, f"loss {line['loss']:.3f}, {rate:,.0f} tokens/s")
            if last or wish.name or training.step % settings.save_every == 0:
                _save(run, training, tokenizer, settings)
            if wish.name and not last:
                raise Stopped(f"{wish.name} at step {training.step}, saved; run the same command again to go on")
    save_model(model.eval(), run.dir, tokenizer)
    return log.last
