"""PPO from the first iteration to the last: prompts, held-out evaluation, alarms, checkpoints, exact resume."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from l2.align.ppo import Learner, Settings, Whitening, estimate, explained_variance, learn, penalised
from l2.align.rollouts import Part, Prompt, RewardFn, Rollout, cut, measure, metrics, reward_models, roll_out
from l2.files.errors import Stopped
from l2.files.manifest import Run
from l2.files.progress import OnProgress, ignore
from l2.generate.engine import Sampling, prompt_key
from l2.model.checkpoint import (
    AnyModel,
    load_language_model,
    load_reward_model,
    read_weights,
    save_model,
    scalar_from,
)
from l2.model.transformer import LanguageModel, ScalarModel
from l2.tokens.tokenizer import Tokenizer
from l2.train.checkpoints import Log, latest_step, load_step, save_step
from l2.train.optim import load_optimizer, optimizer_tensors
from l2.train.order import epoch_order
from l2.train.stop import stop_wish

VALUE = "value"  # the directory of the value model
Line = dict[str, Any]


@dataclass
class State:
    """All that goes on from one iteration to the next besides the models: what state.json holds."""

    step: int = 0
    tokens: int = 0
    whitening: Whitening = field(default_factory=Whitening)
    first_std: float = 0.0  # of the scores, and the length of the answers, at the start: what alarms compare with
    first_length: float = 0.0
    best: float | None = None  # held-out reward
    misses: int = 0  # evaluations since then
    stopped: str = ""  # why it ended early

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> State:
        """What `asdict` gave."""
        return cls(**(dict(fields) | {"whitening": Whitening(**fields["whitening"])}))


def iteration_prompts(step: int, prompts: Sequence[Prompt], batch: int, seed: int) -> tuple[list[Prompt], list[int]]:
    """The prompts of an iteration, and the keys that their answers are drawn by: functions of (seed, step).

    Every epoch visits each prompt once, in its own order, and each visit of a prompt draws another answer.
    """
    chosen, keys = [], []
    for place in range(step * batch, (step + 1) * batch):
        epoch, at = divmod(place, len(prompts))
        prompt = prompts[epoch_order(len(prompts), seed, epoch)[at]]
        chosen.append(prompt)
        keys.append(prompt_key(f"visit {epoch} of {prompt.identity}"))
    return chosen, keys


@dataclass
class Ppo:
    """The models and data of a run. The reward is any function of ids (see `RewardFn`)."""

    learner: Learner
    reference: LanguageModel
    score: RewardFn
    prompts: Sequence[Prompt]
    settings: Settings
    held_out: Sequence[Prompt] = ()
    eos_id: int = 2

    def roll_out(
        self, prompts: Sequence[Prompt], keys: Sequence[int], value: ScalarModel | None = None
    ) -> tuple[Rollout, list[list[Part]]]:
        """Judged answers at temperature 1 and top-p 1, cut into mini-batches and measured (see `measure`)."""
        sampling = Sampling(max_new_tokens=self.settings.max_new_tokens, seed=self.settings.seed)
        rollout = roll_out(self.learner.policy, prompts, keys, sampling, self.score, self.eos_id)
        minis = cut(rollout, self.settings.mini_batch, self.settings.micro_batch, self.learner.policy.device)
        for part in (part for mini in minis for part in mini):
            measure(part, self.learner.policy, self.reference, value, self.settings.dtype)
        return rollout, minis

    def iterate(self, state: State) -> Line:
        """One iteration: answers, rewards, advantages, one optimizer step a mini-batch. Returns its log line."""
        settings, start = self.settings, time.monotonic()
        chosen = iteration_prompts(state.step, self.prompts, settings.batch, settings.seed)
        rollout, minis = self.roll_out(*chosen, self.learner.value)
        parts = [part for mini in minis for part in mini]
        scores_N = penalised(rollout, state.whitening(rollout.scores_N), settings.no_eos_penalty)
        estimate(parts, scores_N, settings)
        learned = learn(self.learner, minis, settings)
        state.step += 1
        tokens = sum(len(p.ids) + len(a.tokens) for p, a in zip(rollout.prompts, rollout.answers, strict=True))
        state.tokens += tokens
        seconds = time.monotonic() - start
        return {
            "step": state.step,
            "tokens": state.tokens,
            **learned,
            "lr": settings.lr,
            **metrics(rollout, parts),
            "score_std": float(rollout.scores_N.double().std(unbiased=False)),
            "whitening_std": state.whitening.std,
            "explained_variance": explained_variance(parts),
            "tokens_per_s": round(tokens / seconds, 1),
            "answers_per_s": round(settings.batch / seconds, 2),
        }

    def evaluate(self) -> Line:
        """The metrics of answers to the held-out prompts, always drawn by the same keys, as val_*."""
        keys = [prompt_key(f"held-out {number} {prompt.identity}") for number, prompt in enumerate(self.held_out)]
        rollout, minis = self.roll_out(self.held_out, keys)
        found = metrics(rollout, [part for mini in minis for part in mini])
        return {f"val_{name}": value for name, value in found.items()}


def load_ppo(
    directories: Mapping[str, str | None],
    settings: Settings,
    prompts: Sequence[Prompt],
    held_out: Sequence[Prompt],
    *,
    eos_id: int,
    device: torch.device | str,
) -> Ppo:
    """All models of a run, in fp32: model, reference, helpful_rm and, where given, safety_rm.

    The value model is the trunk of the helpfulness reward model under a zero head: its targets are whitened, and the
    reward model's head is not on that scale (ours).
    """
    names = ("model", "reference", "helpful_rm", "safety_rm")
    model, reference, helpful_rm, safety_rm = (directories.get(name) for name in names)
    assert model is not None and reference is not None and helpful_rm is not None
    helpful = load_reward_model(helpful_rm, device=device)
    safe = load_reward_model(safety_rm, device=device) if safety_rm is not None else None
    learner = Learner(load_language_model(model, device=device), scalar_from(helpful, zero_head=True))
    return Ppo(
        learner,
        load_language_model(reference, device=device),
        reward_models(helpful, safe),
        prompts,
        settings,
        held_out,
        eos_id,
    )


def alarms(line: Line, state: State, settings: Settings) -> dict[str, str]:
    """What a person should hear of this iteration, as {name: sentence}. Thresholds are ours."""
    found = {}
    whitened = settings.whitening in ("batch", "running")
    if whitened and line["score_std"] < 0.1 * state.first_std:
        found["whitening"] = (
            f"the spread of the scores fell from {state.first_std:.3g} to {line['score_std']:.3g}, and whitening "
            "blows up what is left of it against beta; stop, or use --whiten frozen"
        )
    if line["kl"] > 0.5 * line["length"]:
        found["kl"] = (
            f"the KL to the reference is {line['kl']:.3g} nats an answer, over half a nat a token; "
            "raise --beta, or lower --lr"
        )
    if line["eos_rate"] < 0.5:
        found["truncation"] = (
            f"{1 - line['eos_rate']:.0%} of the answers were cut off without EOS; "
            "raise --max-new-tokens or --no-eos-penalty"
        )
    if not 0.5 < line["length"] / state.first_length < 2.0:
        found["length"] = f"answers went from {state.first_length:.1f} to {line['length']:.1f} tokens on average"
    return found


def judge_end(line: Line, state: State, settings: Settings) -> None:
    """Note in `state` whether to stop early: the KL budget is spent, or held-out reward no longer grows."""
    if settings.max_kl and line["kl"] > settings.max_kl:
        state.stopped = (
            f"the KL to the reference reached {line['kl']:.3g} nats an answer (--max-kl {settings.max_kl:g})"
        )
    if "val_reward" not in line:
        return
    if state.best is None or line["val_reward"] > state.best:
        state.best, state.misses = line["val_reward"], 0
    else:
        state.misses += 1
    if settings.stop_patience and state.misses >= settings.stop_patience:
        state.stopped = f"held-out reward has not grown over {state.misses} evaluations (best {state.best:.4g})"


def _save(run: Run, ppo: Ppo, state: State, tokenizer: Tokenizer) -> None:
    learner = ppo.learner
    models: dict[str, AnyModel] = {"policy": learner.policy, VALUE: learner.value}
    tensors = {
        f"{name}:{key}": tensor
        for (name, model), optimizer in zip(models.items(), learner.optimizers, strict=True)
        for key, tensor in optimizer_tensors(optimizer, model).items()
    }

    def save_models(path: Path) -> None:
        save_model(learner.policy, path, tokenizer)
        save_model(learner.value, path / VALUE, tokenizer)

    save_step(run.dir, state.step, save_models, tensors, asdict(state))
    run.save(tokens=state.tokens)


def _resume(run: Run, ppo: Ppo) -> tuple[State, Log]:
    path = latest_step(run.dir)
    if path is None:
        return State(whitening=Whitening(ppo.settings.whitening)), Log(run.dir, -1)
    tensors, fields = load_step(path)
    learner = ppo.learner
    places = ((learner.policy, path, "policy"), (learner.value, path / VALUE, VALUE))
    for (model, where, name), optimizer in zip(places, learner.optimizers, strict=True):
        weights = read_weights(where, device=model.device)
        model.load_state_dict(weights, strict=not model.config.tie_embeddings)
        own = {key.removeprefix(f"{name}:"): value for key, value in tensors.items() if key.startswith(f"{name}:")}
        load_optimizer(optimizer, model, own)
    return State.from_json(fields), Log(run.dir, fields["step"])


def run_ppo(
    ppo: Ppo,
    run: Run,
    tokenizer: Tokenizer,
    *,
    on_progress: OnProgress = ignore,
    on_alarm: Callable[[str], None] = lambda sentence: None,
) -> Line:
    """Train into `run.dir`, going on from its newest checkpoint; returns the last log line.

    Every iteration leaves a line in log.jsonl and a checkpoint. Line 0 is the held-out evaluation of the start.
    `on_alarm` hears each alarm when it begins. Raises Stopped after saving when a signal asks for it.
    """
    settings = ppo.settings
    state, log = _resume(run, ppo)
    if ppo.held_out and not log.last:
        log.write({"step": 0, "tokens": 0} | ppo.evaluate())
        state.best = log.last["val_reward"]
    with stop_wish() as wish:
        while state.step < settings.iterations and not state.stopped:
            known = log.last.get("alarms", {})
            line = ppo.iterate(state)
            if state.step == 1:
                state.first_std, state.first_length = line["score_std"], line["length"]
            last = state.step == settings.iterations
            if ppo.held_out and (last or state.step % settings.eval_every == 0):
                line |= ppo.evaluate()
            judge_end(line, state, settings)
            if state.stopped:
                line["stopped"] = state.stopped
            if raised := alarms(line, state, settings):
                line["alarms"] = raised
            for name in raised.keys() - known.keys():
                on_alarm(f"iteration {state.step}: {raised[name]}")
            log.write(line)
            _save(run, ppo, state, tokenizer)
            on_progress(state.step, settings.iterations, f"reward {line['reward']:.3f}, KL {line['kl']:.3f}")
            if wish.name and not last and not state.stopped:
                raise Stopped(f"{wish.name} at iteration {state.step}, saved; run the same command again to go on")
    save_model(ppo.learner.policy, run.dir, tokenizer)
    save_model(ppo.learner.value, run.dir / VALUE, tokenizer)
    return log.last
