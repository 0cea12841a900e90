"""PPO from the first iteration to the last: prompts, held-out evaluation, alarms, checkpoints, exact resume."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from l2.align.ppo import Learner, Settings, Whitening, estimate, explained_variance, learn, penalised
from l2.align.rollouts import (
    Part,
    Prompt,
    RewardFn,
    Rollout,
    answer_kls,
    cut,
    judge,
    measure,
    metrics,
    reward_models,
)
from l2.align.watch import Line, State, refusal_rate, watch
from l2.files.atomic import atomic_dir
from l2.files.errors import Stopped
from l2.files.manifest import Run
from l2.files.progress import OnProgress, ignore
from l2.generate.engine import Completion, Sampling, generate, prompt_key
from l2.model.checkpoint import (
    AnyModel,
    load_language_model,
    load_reward_model,
    model_tensors,
    read_weights,
    save_model,
    scalar_from,
)
from l2.model.transformer import LanguageModel, ScalarModel
from l2.tokens.tokenizer import Tokenizer
from l2.train.checkpoints import SAMPLES, Log, latest_step, load_step, save_step
from l2.train.fused import fuse
from l2.train.meter import Energy, carbon
from l2.train.optim import load_optimizer, optimizer_tensors
from l2.train.order import epoch_order
from l2.train.ranks import ALONE, Ranks, cut_weights, gathered, put_back
from l2.train.stop import stop_wish

VALUE = "value"  # the directory of the value model
BEST = "checkpoints/best"  # the policy that held-out prompts like best, with --stop-patience
SAMPLE_BATCH = 128  # answers written at once


def iteration_prompts(step: int, prompts: Sequence[Prompt], batch: int, seed: int) -> tuple[list[Prompt], list[int]]:
    """The prompts of an iteration, and the keys that their answers are drawn by: functions of (seed, step).

    Every epoch visits each prompt once, in its own order, and each visit draws another answer: also of a prompt that
    stands in the data several times, which would else be one sample counted twice.
    """
    chosen, keys = [], []
    for place in range(step * batch, (step + 1) * batch):
        epoch, at = divmod(place, len(prompts))
        item = int(epoch_order(len(prompts), seed, epoch)[at])
        chosen.append(prompts[item])
        keys.append(prompt_key(f"visit {epoch} of {item} {prompts[item].identity}"))
    return chosen, keys


@dataclass
class Ppo:
    """The models and data of a run. The reward is any function of ids (see `RewardFn`).

    `judges` are the models behind `score`. With `offload` each model is on `device` only while a phase needs it, and
    in the host's memory otherwise; the numbers are the same. `decode` turns an answer into text, for samples.

    Over several ranks every model is cut into slices. What a phase reads is gathered for it once and let go of after
    it, so that each rank writes, scores and measures its share of the answers without another word to the others; only
    learning gathers layer by layer, and gives gradients back (paper §3.2.3, where generating as one learns was slow).
    """

    learner: Learner
    reference: LanguageModel
    score: RewardFn
    prompts: Sequence[Prompt]
    settings: Settings
    held_out: Sequence[Prompt] = ()
    eos_id: int = 2
    decode: Callable[[list[int]], str] | None = None
    judges: Sequence[ScalarModel] = ()
    offload: bool = False
    device: torch.device = field(init=False)
    seconds: dict[str, float] = field(default_factory=dict)  # of each phase of an iteration

    def __post_init__(self) -> None:
        dtype = self.learner.dtype
        self.settings.check_ranks(self.ranks.world)
        self.device = self.learner.policy.device
        self.reference = cut_weights(fuse(self.reference.to(dtype)), self.ranks.mesh)
        if self.offload:
            self._move("cpu", self.learner, self.reference, *self.judges)

    @property
    def ranks(self) -> Ranks:
        """Those that learn together."""
        return self.learner.ranks

    @contextmanager
    def phase(self, name: str, *needed: nn.Module | Learner) -> Iterator[None]:
        """Have `needed` on the device, whole where it is a model, and count the seconds."""
        start = time.monotonic()
        if self.offload:
            self._move(self.device, *needed)
        with ExitStack() as whole:
            for model in needed if self.ranks.mesh is not None else ():
                if isinstance(model, nn.Module):
                    dtype = torch.float32 if model in self.judges else self.learner.dtype
                    whole.enter_context(gathered(model, dtype))
            yield
        if self.offload:
            self._move("cpu", *needed)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start

    def _move(self, to: torch.device | str, *models: nn.Module | Learner) -> None:
        for model in models:
            model.to(to)

    def roll_out(
        self, prompts: Sequence[Prompt], keys: Sequence[int], critic: ScalarModel | None = None
    ) -> tuple[Rollout, list[list[Part]]]:
        """Judged answers at temperature 1 and top-p 1, cut into mini-batches and measured (see `measure`)."""
        settings, actor, ranks = self.settings, self.learner.actor, self.ranks
        sampling = Sampling(max_new_tokens=settings.max_new_tokens, seed=settings.seed)

        def write(asked: Sequence[tuple[Prompt, int]]) -> list[Completion]:
            rows, own = [prompt.ids for prompt, _ in asked], [key for _, key in asked]
            answers = generate(actor, rows, own, sampling, eos_id=self.eos_id, batch_size=SAMPLE_BATCH)
            return [completion for (completion,) in answers]

        with self.phase("generate", actor):
            answers = ranks.share([*zip(prompts, keys, strict=True)], write)
        with self.phase("score", *self.judges):
            rollout = judge(prompts, answers, self._scored)
        minis = cut(rollout, settings.mini_batch, settings.micro_batch, self.device, ranks.rank, ranks.world)
        needed = (actor, self.reference) if critic is None else (actor, self.reference, critic)
        with self.phase("measure", *needed):
            for part in (part for mini in minis for part in mini):
                measure(part, actor, self.reference, critic)
        return rollout, minis

    def _scored(
        self, prompts: Sequence[list[int]], answers: Sequence[list[int]]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`score`, each rank its share."""
        if self.ranks.world == 1:
            return self.score(prompts, answers)

        def own(both: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, ...]]:
            found = self.score([prompt for prompt, _ in both], [answer for _, answer in both])
            return [*zip(*(scores_N.tolist() for scores_N in found if scores_N is not None), strict=True)]

        helpful_N, *safe_N = torch.tensor(self.ranks.share([*zip(prompts, answers, strict=True)], own)).unbind(1)
        return helpful_N, safe_N[0] if safe_N else None

    def everyones(self, minis: Sequence[Sequence[Part]]) -> list[Part]:
        """The measured parts of all ranks, of which this one's are those of `minis` themselves."""
        own = [part for mini in minis for part in mini]
        if self.ranks.world == 1:
            return own
        hands = self.ranks.each(lambda: [part.to("cpu") for part in own])
        hands[self.ranks.rank] = own
        return [part.to(self.device) if hand is not own else part for hand in hands for part in hand]

    def _metrics(self, rollout: Rollout, parts: Sequence[Part]) -> dict[str, float]:
        found = metrics(rollout, parts)
        if self.decode is not None:
            both = zip(rollout.prompts, rollout.answers, strict=True)
            rate = refusal_rate(self.decode(answer.tokens) for prompt, answer in both if not prompt.tagged)
            found |= {} if rate is None else {"refusal_rate": rate}
        return found

    def iterate(self, state: State) -> Line:
        """One iteration: answers, rewards, advantages, one optimizer step a mini-batch. Returns its log line."""
        settings, start = self.settings, time.monotonic()
        self.seconds = {}
        chosen = iteration_prompts(state.step, self.prompts, settings.batch, settings.seed)
        rollout, minis = self.roll_out(*chosen, self.learner.critic)
        parts = self.everyones(minis)
        scores_N = penalised(rollout, state.whitening(rollout.scores_N), settings.no_eos_penalty)
        estimate(parts, scores_N, settings)
        with self.phase("learn", self.learner):
            learned = learn(self.learner, minis, settings)
        state.step += 1
        tokens = sum(len(p.ids) + len(a.tokens) for p, a in zip(rollout.prompts, rollout.answers, strict=True))
        state.tokens += tokens
        line = {
            "step": state.step,
            "tokens": state.tokens,
            **learned,
            "lr": settings.lr,
            **self._metrics(rollout, parts),
            "score_std": float(rollout.scores_N.double().std(unbiased=False)),
            "whitening_std": state.whitening.std,
            "explained_variance": explained_variance(parts),
        }
        seconds = time.monotonic() - start
        self.seconds["rest"] = seconds - sum(self.seconds.values())
        return line | {
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "tokens_per_s": round(tokens / seconds, 1),
            "answers_per_s": round(settings.batch / seconds, 2),
        }

    def evaluate(self, step: int) -> tuple[Line, list[Line]]:
        """Answers to the held-out prompts, always drawn by the same keys: their metrics as val_*, and the samples."""
        keys = [prompt_key(f"held-out {number} {prompt.identity}") for number, prompt in enumerate(self.held_out)]
        rollout, minis = self.roll_out(self.held_out, keys)
        parts = self.everyones(minis)
        line = {f"val_{name}": value for name, value in self._metrics(rollout, parts).items()}
        return line, self._samples(step, rollout, answer_kls(parts, len(keys)))

    def _samples(self, step: int, rollout: Rollout, kls: Sequence[float]) -> list[Line]:
        """A sample record (design.md §2) for each answer, with what the reward models say of it, and its KL."""
        samples = []
        for i, (prompt, answer) in enumerate(zip(rollout.prompts, rollout.answers, strict=True)):
            rewards = {"helpful": float(rollout.helpful_N[i])}
            rewards |= {} if rollout.safe_N is None else {"safe": float(rollout.safe_N[i])}
            said = {"step": step, "prompt": prompt.text, "id": prompt.identity, "safety": prompt.tagged}
            if self.decode is not None:
                said["response"] = self.decode(answer.tokens).strip()
            end = {"finish": answer.finish, "tokens": answer.tokens, "rewards": rewards, "kl": kls[i]}
            samples.append(said | end)
        return samples


def load_ppo(
    directories: Mapping[str, str | None],
    settings: Settings,
    prompts: Sequence[Prompt],
    held_out: Sequence[Prompt],
    tokenizer: Tokenizer,
    *,
    device: torch.device | str,
    offload: bool = False,
    ranks: Ranks = ALONE,
) -> Ppo:
    """All models of a run: model, reference, helpful_rm and, where given, safety_rm.

    Policy, value and reward models are fp32, the reference is of the products' type. The value model is the trunk of
    the helpfulness reward model under a zero head: its targets are whitened, and the reward model's head is not on
    that scale (ours).
    """
    names = ("model", "reference", "helpful_rm", "safety_rm")
    model, reference, helpful_rm, safety_rm = (directories.get(name) for name in names)
    assert model is not None and reference is not None and helpful_rm is not None
    helpful = load_reward_model(helpful_rm, device=device)
    value = scalar_from(helpful, zero_head=True)
    cut_weights(helpful, ranks.mesh)  # one after the other, so that few are whole at once
    safe = cut_weights(load_reward_model(safety_rm, device=device), ranks.mesh) if safety_rm is not None else None
    learner = Learner(load_language_model(model, device=device), value, settings.dtype, ranks)
    return Ppo(
        learner,
        load_language_model(reference, dtype=settings.dtype, device=device),
        reward_models(helpful, safe),
        prompts,
        settings,
        held_out,
        eos_id=tokenizer.eos_id,
        decode=tokenizer.decode,
        judges=[judge for judge in (helpful, safe) if judge is not None],
        offload=offload,
    )


def _saver(ppo: Ppo, tokenizer: Tokenizer) -> Callable[[Path], None]:
    """What writes policy and value model as they stand: made by all ranks together, called by the first."""
    policy, value = ppo.learner.policy, ppo.learner.value
    weights = model_tensors(policy), model_tensors(value)

    def save(path: Path) -> None:
        save_model(policy, path, tokenizer, weights[0])
        save_model(value, path / VALUE, tokenizer, weights[1])

    return save


def _save(run: Run, ppo: Ppo, state: State, tokenizer: Tokenizer) -> None:
    learner, save = ppo.learner, _saver(ppo, tokenizer)
    models: dict[str, AnyModel] = {"policy": learner.policy, VALUE: learner.value}
    tensors = {
        f"{name}:{key}": tensor
        for (name, model), optimizer in zip(models.items(), learner.optimizers, strict=True)
        for key, tensor in optimizer_tensors(optimizer, model).items()
    }
    with ppo.ranks.told():
        if ppo.ranks.first:
            save_step(run.dir, state.step, save, tensors, asdict(state))
            run.save(tokens=state.tokens)


def _resume(run: Run, ppo: Ppo) -> tuple[State, Log, Log]:
    path, writes = latest_step(run.dir), ppo.ranks.first
    if path is None:
        state = State(whitening=Whitening(ppo.settings.whitening))
        return state, Log(run.dir, -1, writes), Log(run.dir, -1, writes, SAMPLES)
    tensors, fields = load_step(path)
    learner = ppo.learner
    places: tuple[tuple[AnyModel, Path, str], ...] = (
        (learner.policy, path, "policy"),
        (learner.value, path / VALUE, VALUE),
    )
    for (model, where, name), optimizer in zip(places, learner.optimizers, strict=True):
        put_back(model, read_weights(where))
        own = {key.removeprefix(f"{name}:"): value for key, value in tensors.items() if key.startswith(f"{name}:")}
        load_optimizer(optimizer, model, own)
    learner.refresh()
    state = State.from_json(fields)
    return state, Log(run.dir, state.step, writes), Log(run.dir, state.step, writes, SAMPLES)


def _keep_best(run: Run, ppo: Ppo, state: State, tokenizer: Tokenizer) -> None:
    """Put the policy aside that the held-out prompts like best so far, where --stop-patience will ask for it."""
    if ppo.settings.stop_patience and state.best_step == state.step:
        policy = ppo.learner.policy
        weights = model_tensors(policy)  # which takes all ranks
        with ppo.ranks.told():
            if ppo.ranks.first:
                with atomic_dir(run.dir / BEST) as partial:
                    save_model(policy, partial, tokenizer, weights)


def run_ppo(
    ppo: Ppo,
    run: Run,
    tokenizer: Tokenizer,
    *,
    on_progress: OnProgress = ignore,
    on_alarm: Callable[[str], None] = lambda sentence: None,
) -> Line:
    """Train into `run.dir`, going on from its newest checkpoint; returns the last log line.

    Every iteration leaves a line in log.jsonl and a checkpoint, every held-out evaluation its answers in
    samples.jsonl; line 0 is that of the start. `on_alarm` hears each alarm when it begins. What held-out reward ended
    early is the policy of its best evaluation. Of several ranks the first alone writes. Raises Stopped after saving
    when a signal asks for it.
    """
    settings = ppo.settings
    state, log, samples = _resume(run, ppo)

    def evaluated() -> Line:
        line, answers = ppo.evaluate(state.step)
        for answer in answers:
            samples.write(answer)
        return line

    energy, before = Energy(ppo.device, ppo.ranks.local), log.last.get("joules", 0.0)
    if ppo.held_out and not log.last:
        begun = {"step": 0, "tokens": 0} | evaluated()
        state.best = begun["val_reward"]
        _keep_best(run, ppo, state, tokenizer)
        log.write(begun)
    saving = 0.0
    with stop_wish() as wish:
        while state.step < settings.iterations and not state.stopped:
            known = log.last.get("alarms", {})
            line: Line = ppo.iterate(state)
            line["seconds"]["save"] = round(saving, 3)  # of the checkpoint before
            last = state.step == settings.iterations
            if ppo.held_out and (last or state.step % settings.eval_every == 0):
                line |= evaluated()
            line |= watch(line, state, settings)
            for name in line.get("alarms", {}).keys() - known.keys():
                on_alarm(f"iteration {state.step}: {line['alarms'][name]}")
            line["joules"] = round(before + ppo.ranks.total([energy.joules()])[0], 1)
            log.write(line)
            start = time.monotonic()
            _keep_best(run, ppo, state, tokenizer)
            _save(run, ppo, state, tokenizer)
            saving = time.monotonic() - start
            on_progress(state.step, settings.iterations, f"reward {line['reward']:.3f}, KL {line['kl']:.3f}")
            stop = bool(ppo.ranks.most([wish.name is not None])[0])
            if stop and not last and not state.stopped:
                why = wish.name or "another rank"
                raise Stopped(f"{why} at iteration {state.step}, saved; run the same command again to go on")
    if state.stopped and (run.dir / BEST).exists():
        put_back(ppo.learner.policy, read_weights(run.dir / BEST))
    save, joules = _saver(ppo, tokenizer), log.last.get("joules", 0.0)
    with ppo.ranks.told():
        if ppo.ranks.first:
            run.save(joules=joules, energy=energy.source, gco2e=round(carbon(joules), 3))
            save(run.dir)
    return log.last
