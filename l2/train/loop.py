"""The one training loop: pretrain, sft and rm-train differ in their objective alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from l2.files.errors import L2Error, Stopped
from l2.files.manifest import Run
from l2.files.progress import OnProgress, ignore
from l2.model.checkpoint import AnyModel, load_weights, model_tensors, read_weights, save_model
from l2.model.config import ModelConfig
from l2.model.transformer import LanguageModel
from l2.tokens.tokenizer import Tokenizer
from l2.train.checkpoints import LOG, SAMPLES, Log, latest_step, load_step, save_step
from l2.train.compute import Compute, Sums
from l2.train.meter import Energy, carbon, measured_peak
from l2.train.optim import adamw, apply, clip_gradients, load_optimizer, optimizer_tensors
from l2.train.ranks import ALONE, Ranks, put_back
from l2.train.schedule import cosine
from l2.train.spikes import SPIKE, Usual
from l2.train.stop import stop_wish


@dataclass
class Micro:
    """One micro-batch: what goes through the model at once.

    count: by what the loss is divided, summed over the global batch (tokens learned, or pairs).
    tokens: how many tokens it computes, for the meters.
    bytes: of the text that what is learned stands for, 0 where nobody knows.
    """

    tensors: dict[str, Tensor]
    count: float
    tokens: int
    bytes: float = 0.0

    def to(self, device: torch.device) -> dict[str, Tensor]:
        """The tensors on `device`."""
        return {name: tensor.to(device, non_blocking=True) for name, tensor in self.tensors.items()}


class Objective(Protocol):
    """What a stage trains on and how it is judged."""

    def batch(self, step: int, rank: int = 0, world: int = 1) -> list[Micro]:
        """The micro-batches of a step that `rank` of `world` computes: every world-th item, a function of the step."""

    def validation(self) -> Iterable[tuple[str, list[Micro]]]:
        """The name of each held-out source and its micro-batches, at least one; none where nothing is held out."""

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
    keep: int = 2  # newest checkpoints
    keep_every: int = 0  # steps between checkpoints that stay for good; 0: none
    compiled: bool = False
    recompute: str = "none"  # see `Compute`
    on_spike: str = "warn"  # see `spikes`


@dataclass
class Training:
    """The state of a run: what a checkpoint holds."""

    model: AnyModel
    optimizer: torch.optim.Optimizer
    compute: Compute
    ranks: Ranks = ALONE
    step: int = 0
    tokens: int = 0
    usual: dict[str, Usual] = field(default_factory=lambda: {"loss": Usual(), "grad_norm": Usual()})


def prepare(model: AnyModel, objective: Objective, settings: Settings, ranks: Ranks = ALONE) -> Training:
    """Everything that a first step needs. Over several ranks the weights of `model` are cut into slices."""
    compute = Compute(model, objective, settings.dtype, settings.recompute, settings.compiled, ranks.mesh)
    return Training(model, adamw(model, weight_decay=settings.weight_decay), compute, ranks)


def number(value: Tensor | float) -> float:
    """A summed quantity as a plain number."""
    return float(value.detach()) if isinstance(value, Tensor) else value


def summed(
    training: Training,
    micros: Sequence[Micro],
    spare: Callable[[], Micro],
    learn: Callable[[Tensor], None] | None = None,
) -> tuple[dict[str, float], float]:
    """Every quantity of the objective over the micro-batches of all ranks, divided by their count, and their tokens.

    learn: what to do with each mean loss. Ranks compute in step with one another: one that has fewer micro-batches
    than another computes one of its own, or `spare`, again, for nothing.
    """
    ranks = training.ranks
    count, tokens = ranks.total([sum(m.count for m in micros), sum(m.tokens for m in micros)])
    if not count:
        raise L2Error("a batch holds nothing to predict: the data are starts of documents alone")
    rounds = int(ranks.most([len(micros)])[0])
    total: dict[str, float] = {}
    for i in range(rounds):
        micro, share = (micros[i], 1.0) if i < len(micros) else ((micros[0] if micros else spare()), 0.0)
        sums = training.compute(micro.to(training.model.device))
        if learn is not None:
            assert isinstance(sums["loss"], Tensor)
            learn(sums["loss"] * (share * ranks.world / count))  # which FSDP divides by the ranks again
        for name, value in sums.items():
            total[name] = total.get(name, 0.0) + share * number(value)
    names = sorted(total)
    means = dict(zip(names, (value / count for value in ranks.total([total[name] for name in names])), strict=True))
    return means, tokens


@dataclass(frozen=True)
class Judged:
    """What validation found on a source: means of the objective's quantities over `count`."""

    means: dict[str, float]
    count: float
    bytes: float

    def told(self) -> dict[str, float]:
        """The means, and the loss as bits per byte of text where bytes are known."""
        bits = {"bits_per_byte": self.means["loss"] * self.count / math.log(2) / self.bytes} if self.bytes else {}
        return self.means | bits


def together(parts: Sequence[Judged]) -> Judged:
    """Several sources as one; its bytes are known where those of all are."""
    count = sum(part.count for part in parts)
    means = {name: sum(part.means[name] * part.count for part in parts) / count for name in parts[0].means}
    return Judged(means, count, sum(part.bytes for part in parts) if all(part.bytes for part in parts) else 0.0)


def validate(training: Training, objective: Objective) -> dict[str, float]:
    """Every quantity of the objective on what is held out, without gradients; nothing where nothing is.

    The mean over all sources as "loss", and of each as "loss/wiki" where there are several (`Judged.told`).
    """
    ranks, found = training.ranks, dict[str, Judged]()
    training.compute.eval()
    training.compute.refresh()
    with torch.no_grad():
        for name, micros in objective.validation():
            spare = partial(micros.__getitem__, 0)
            means, _ = summed(training, micros[ranks.rank :: ranks.world], spare)
            found[name] = Judged(means, sum(m.count for m in micros), sum(m.bytes for m in micros))
    training.compute.train()
    if not found:
        return {}
    each = {f"{what}/{name}": value for name, part in found.items() for what, value in part.told().items()}
    return together(list(found.values())).told() | (each if len(found) > 1 else {})


def update(objective: Objective, training: Training, settings: Settings) -> dict[str, Any]:
    """One optimizer step: gradients of the global batch's mean loss, whatever the micro-batches (design.md §4.3).

    Raises L2Error when the loss or the gradients are no numbers, and for a spike where `settings` says stop.
    """
    ranks, step, compute = training.ranks, training.step, training.compute

    def learn(loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]
        compute.collect()

    compute.refresh()
    micros = objective.batch(step, ranks.rank, ranks.world)
    means, tokens = summed(training, micros, lambda: objective.batch(0)[0], learn)
    lr = cosine(step, settings.steps, settings.lr, settings.warmup, settings.min_lr)
    if not math.isfinite(means["loss"]):
        raise L2Error(f"step {step + 1}: the loss is {means['loss']}; try a lower --lr (now {settings.lr:g})")
    norm = clip_gradients(training.model.parameters(), lr, settings.grad_clip)
    training.step += 1
    training.tokens += int(tokens)
    line: dict[str, Any] = {"step": training.step, "tokens": training.tokens, **means, "lr": lr, "grad_norm": norm}
    line |= {f"{name}_z": round(usual.z(line[name]), 2) for name, usual in training.usual.items()}
    spike = max(line["loss_z"], line["grad_norm_z"]) > SPIKE
    if spike and settings.on_spike == "stop":
        raise L2Error(f"step {training.step}: {told_spike(line)}; --on-spike warn or skip goes on")
    for name, usual in training.usual.items():
        usual.add(line[name])  # a spike too: what goes on for long is no spike, and is not skipped for ever
    if spike and settings.on_spike == "skip":
        training.optimizer.zero_grad(set_to_none=True)
        return line | {"spike": "skipped"}
    apply(training.optimizer, lr)
    return line | ({"spike": "warned"} if spike else {})


def told_spike(line: Mapping[str, Any]) -> str:
    """A spike in a sentence."""
    loss, norm = (f"{line[n]:.3g} ({line[n + '_z']:+.1f} standard deviations)" for n in ("loss", "grad_norm"))
    return f"a spike: loss {loss}, gradient norm {norm}"


def _resume(run: Run, training: Training) -> None:
    path = latest_step(run.dir)
    if path is None:
        return
    tensors, state = load_step(path)
    put_back(training.model, read_weights(path))
    load_optimizer(training.optimizer, training.model, tensors)
    training.step, training.tokens = state["step"], state["tokens"]
    for name, values in state.get("usual", {}).items():
        training.usual[name] = Usual(values)


def _save(run: Run, training: Training, tokenizer: Tokenizer, settings: Settings) -> None:
    weights = model_tensors(training.model)  # which takes all ranks
    optimizer = optimizer_tensors(training.optimizer, training.model)
    state = {"tokens": training.tokens, "usual": {name: list(usual.values) for name, usual in training.usual.items()}}

    def models(path: Path) -> None:
        save_model(training.model, path, tokenizer, weights)

    with training.ranks.told():
        if training.ranks.first:
            save_step(run.dir, training.step, models, optimizer, state, settings.keep, settings.keep_every)
            run.save(tokens=training.tokens)


@dataclass
class Meters:
    """What a line says besides the mathematics, all of it different in each run."""

    config: ModelConfig
    peak: float  # FLOP/s of all ranks
    energy: Energy  # of this rank
    ranks: Ranks = ALONE
    before: float = 0.0  # joules that earlier lives of the run spent

    def line(self, tokens: int, seconds: float, seq: int) -> dict[str, float]:
        """Of one step of all ranks: `tokens` in `seconds`, at a context of `seq`."""
        rate = tokens / seconds
        flops, common = self.config.flops_per_token(seq), self.config.common_flops_per_token(seq)
        return {
            "tokens_per_s": round(rate, 1),
            "mfu": round(rate * flops / self.peak, 4),
            "mfu_common": round(rate * common / self.peak, 4),
            "joules": round(self.before + self.ranks.total([self.energy.joules()])[0], 1),
        }


Draw = Callable[[LanguageModel], Iterable[Mapping[str, Any]]]


def _sample(training: Training, settings: Settings, draw: Draw, log: Log) -> None:
    """What `draw` makes of the weights as they are, a line each; of weights that are cut, the first rank has a copy."""
    ranks, model = training.ranks, training.model
    assert isinstance(model, LanguageModel)
    weights = model_tensors(model) if ranks.mesh is not None else None  # which takes all ranks
    with ranks.told():
        if ranks.first:
            if weights is not None:
                on_device = {name: weight.to(model.device, settings.dtype) for name, weight in weights.items()}
                model = load_weights(LanguageModel, model.config, on_device, str(log.path.parent))
            for sample in draw(model):
                log.write({"step": training.step, **sample})


def train(
    model: AnyModel,
    objective: Objective,
    settings: Settings,
    run: Run,
    tokenizer: Tokenizer,
    *,
    ranks: Ranks = ALONE,
    draw: Draw | None = None,
    on_progress: OnProgress = ignore,
    on_log: Callable[[dict[str, Any]], None] = lambda line: None,
) -> dict[str, Any]:
    """Train `model` (fp32 weights) into `run.dir`, going on from its newest checkpoint; returns the last log line.

    draw: samples of a language model, which go to samples.jsonl whenever held-out data would be read.
    Raises Stopped after saving when a signal asks for it, and L2Error when the loss is no longer a number.
    """
    config = model.config
    training = prepare(model.train(), objective, settings, ranks)
    _resume(run, training)
    log, samples = (Log(run.dir, training.step, ranks.first, name) for name in (LOG, SAMPLES))
    peak = measured_peak(model.device, settings.dtype)
    energy = Energy(model.device, ranks.local)
    meters = Meters(config, peak * ranks.world, energy, ranks, log.last.get("joules", 0.0))
    with stop_wish() as wish:
        while training.step < settings.steps:
            start, tokens = time.monotonic(), training.tokens
            line = update(objective, training, settings)
            line |= meters.line(training.tokens - tokens, time.monotonic() - start, config.max_seq_len)
            last = training.step == settings.steps
            if last or training.step % settings.eval_every == 0:
                line |= {f"val_{name}": value for name, value in validate(training, objective).items()}
                if draw is not None:
                    _sample(training, settings, draw, samples)
            log.write(line)
            on_log(line)
            on_progress(training.step, settings.steps, f"loss {line['loss']:.3f}, {line['tokens_per_s']:,.0f} tokens/s")
            stop = bool(ranks.most([wish.name is not None])[0])
            if last or stop or training.step % settings.save_every == 0:
                _save(run, training, tokenizer, settings)
            if stop and not last:
                why = wish.name or "another rank"
                raise Stopped(f"{why} at step {training.step}, saved; run the same command again to go on")
    joules = log.last.get("joules", 0.0)
    weights = model_tensors(model.eval())
    if not all(bool(weight.isfinite().all()) for weight in weights.values()):
        raise L2Error(f"the last step left weights that are no numbers; try a lower --lr (now {settings.lr:g})")
    with ranks.told():
        if ranks.first:
            run.save(joules=joules, energy=energy.source, gco2e=round(carbon(joules), 3), peak_flops=peak)
            save_model(model, run.dir, tokenizer, weights)
    return log.last
