"""PPO as the paper uses it (§3.2.3): the mathematics of one iteration, from judged answers to optimizer steps.

Where the paper is silent: a separate value model, GAE with γ 1 and λ 0.95, value clip 0.2, k1 KL a token, whitening
over the rollout batch, advantages whitened over its tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from l2.align.losses import gae, kl_k1, ppo_policy_loss, ppo_value_loss, whiten, whitening_std
from l2.align.rollouts import Part, Rollout, action_logprobs, action_values
from l2.files.errors import L2Error, UsageError
from l2.model.checkpoint import load_weights
from l2.model.transformer import LanguageModel, ScalarModel
from l2.train.compute import Compute, Sums
from l2.train.fused import fuse
from l2.train.optim import adamw, take_step
from l2.train.ranks import ALONE, Ranks

WHITENINGS = ("batch", "running", "frozen", "off")


@dataclass(frozen=True)
class Settings:
    """How to run PPO. Defaults are the paper's (§3.2.3) where it gives them."""

    iterations: int = 400
    batch: int = 512
    mini_batch: int = 64
    micro_batch: int = 16  # memory only
    lr: float = 1e-6
    value_lr: float = 1e-6  # ours: as the policy's
    beta: float = 0.01  # 0.005 for 34B and 70B
    max_new_tokens: int = 256  # ours
    whitening: str = "batch"
    no_eos_penalty: float = 0.0  # ours; in whitened units
    clip: float = 0.2
    value_clip: float = 0.2  # ours
    gamma: float = 1.0  # ours
    lam: float = 0.95  # ours
    grad_clip: float = 1.0
    seed: int = 0
    eval_every: int = 10  # ours
    stop_patience: int = 0  # ours; evaluations, 0 is off
    max_kl: float = 0.0  # ours; nats an answer, 0 is off
    dtype: torch.dtype = torch.float32  # of the products; weights and optimizers stay fp32

    def __post_init__(self) -> None:
        if self.whitening not in WHITENINGS:
            raise UsageError(f"--whiten {self.whitening}: choose one of {', '.join(WHITENINGS)}")
        if min(self.batch, self.mini_batch, self.micro_batch) < 1 or self.batch % self.mini_batch:
            raise UsageError(f"--batch {self.batch} must be a multiple of --mini-batch {self.mini_batch}")

    def check_ranks(self, world: int) -> None:
        """Raises UsageError for more ranks than answers that they could learn from at once."""
        if world > self.mini_batch:
            raise UsageError(f"--mini-batch {self.mini_batch}: fewer answers than the {world} ranks that share them")


PRESETS = {
    "paper": Settings(),
    "tiny": Settings(
        iterations=100, batch=64, mini_batch=16, lr=3e-4, value_lr=3e-4, max_new_tokens=64, no_eos_penalty=1.0
    ),
}


@dataclass
class Whitening:
    """WHITEN of paper Eq. 4, with the statistics that it keeps from one iteration to the next.

    batch: of this rollout batch (the paper's). running: of all batches so far. frozen: of the first batch, for good,
    which keeps the optimum at Gibbs(score / (β·std)), where batch inflates a shrinking spread against β. off: none.
    """

    mode: str = "batch"
    count: int = 0
    mean: float = 0.0
    variance: float = 0.0

    @property
    def std(self) -> float:
        """What scores were divided by."""
        return 1.0 if self.mode == "off" else whitening_std(self.count, self.variance)

    def __call__(self, scores_N: Tensor) -> Tensor:
        """Scores [N] to R̃_c [N], after taking them into the statistics where the mode says so."""
        if self.mode == "off":
            return scores_N
        if self.mode == "batch":
            self.count, self.mean = 0, 0.0
        if self.mode != "frozen" or not self.count:
            self._learn(scores_N.double())
        return whiten(scores_N, self.mean, self.std)

    def _learn(self, scores_N: Tensor) -> None:
        """Merge the moments of two sets (Chan et al. 1979)."""
        total = self.count + len(scores_N)
        share = len(scores_N) / total
        shift = float(scores_N.mean()) - self.mean
        within = (1.0 - share) * self.variance + share * float(scores_N.var(unbiased=False))
        self.count, self.mean = total, self.mean + share * shift
        self.variance = within + share * (1.0 - share) * shift**2


def token_rewards(part: Part, scores_B: Tensor, beta: float) -> Tensor:
    """r [A] of each action: -β·(log π_old - log π_0), and R̃_c at the one that ends the answer (paper Eq. 3 and 4)."""
    rewards_A = -beta * kl_k1(part.old_A, part.reference_A)
    return rewards_A.index_add(0, part.last_B, scores_B)


def estimate(parts: Sequence[Part], scores_N: Tensor, settings: Settings) -> None:
    """Fill in advantages, whitened over all actions of the batch, and the returns, which are taken before that."""
    for part in parts:
        rewards_A = token_rewards(part, scores_N.to(part.old_A)[part.rows_B], settings.beta)
        rewards_BR, values_BR = part.grid(rewards_A), part.grid(part.values_A)
        advantages_BR = gae(rewards_BR, values_BR, part.mask_BR, settings.gamma, settings.lam)
        part.advantages_A = advantages_BR[part.mask_BR]
        part.returns_A = part.advantages_A + part.values_A
    white = whiten(torch.cat([part.advantages_A for part in parts]))
    for part, advantages_A in zip(parts, torch.split(white, [len(part.advantages_A) for part in parts]), strict=True):
        part.advantages_A = advantages_A


def explained_variance(parts: Sequence[Part]) -> float:
    """1 - Var(return - V) / Var(return) over all actions: 1 is a perfect value model, 0 or less knows nothing."""
    returns, values = (torch.cat([getattr(p, f"{n}_A") for p in parts]).double() for n in ("returns", "values"))
    return 1.0 - float((returns - values).var(unbiased=False) / returns.var(unbiased=False).clamp(min=1e-12))


def penalised(rollout: Rollout, scores_N: Tensor, penalty: float) -> Tensor:
    """R̃_c less `penalty` where an answer has no EOS (ours: the paper is silent). No sample is thrown away."""
    return scores_N - penalty * rollout.cut_N.to(scores_N)


class Actions:
    """What a policy is computed for: log π of the actions of a part."""

    def sums(self, model: Any, tensors: Part) -> Sums:
        """ "logprobs" [A], one an action."""
        return {"logprobs": action_logprobs(model, tensors)}


class Values:
    """What a value model is computed for: V before the actions of a part."""

    def sums(self, model: Any, tensors: Part) -> Sums:
        """ "values" [A], one an action."""
        return {"values": action_values(model, tensors)}


M = TypeVar("M", LanguageModel, ScalarModel)


def twin(kind: type[M], model: M, dtype: torch.dtype) -> M:
    """A model that shares the slices of `model`, for `gathered`: FSDP's own modules gather for one pass alone."""
    return fuse(load_weights(kind, model.config, dict(model.state_dict()), "the ranks"), dtype)


@dataclass
class Learner:
    """What PPO trains: policy and value model in fp32, each with its optimizer and a copy in `dtype` that computes.

    Over several ranks both are cut into slices, and so are the optimizers. `actor` and `critic` are the models that
    sample and measure: there they share the slices, and compute while those are `gathered`.
    """

    policy: LanguageModel
    value: ScalarModel
    dtype: torch.dtype = torch.float32
    ranks: Ranks = ALONE
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer] = field(init=False)
    computes: tuple[Compute, Compute] = field(init=False)
    actor: LanguageModel = field(init=False)
    critic: ScalarModel = field(init=False)

    def __post_init__(self) -> None:
        mesh = self.ranks.mesh
        policy = Compute(self.policy, Actions(), self.dtype, mesh=mesh)
        value = Compute(self.value, Values(), self.dtype, mesh=mesh)
        self.computes = policy, value
        self.optimizers = adamw(self.policy), adamw(self.value)
        if mesh is None:
            self.actor, self.critic = cast(LanguageModel, policy.model), cast(ScalarModel, value.model)
        else:
            self.actor = twin(LanguageModel, self.policy, self.dtype)
            self.critic = twin(ScalarModel, self.value, self.dtype)

    def to(self, device: torch.device | str) -> None:
        """Move everything, the optimizers' state too."""
        for model in (self.policy, self.value, *self.computes):
            model.to(device)
        for optimizer in self.optimizers:
            for weight, kept in optimizer.state.items():
                optimizer.state[weight] = {name: value.to(device) for name, value in kept.items()}

    def refresh(self) -> None:
        """Let the copies follow the weights."""
        for compute in self.computes:
            compute.refresh()

    def backward(self, part: Part, settings: Settings, count: float, first: bool, share: float = 1.0) -> Tensor:
        """Add the gradients of a part of a mini-batch of `count` actions, times `share`, the `first` before any step.

        Returns sums over its actions [3]: policy loss, value loss, and how many ratios lie beyond 1 ± clip.
        """
        policy, value = self.computes
        logprobs_A, values_A = policy(part)["logprobs"], value(part)["values"]
        if first:
            check_ratio(logprobs_A, part.old_A, self.dtype, self.ranks)
        loss = ppo_policy_loss(logprobs_A, part.old_A, part.advantages_A, settings.clip).sum()
        value_loss = ppo_value_loss(values_A, part.values_A, part.returns_A, settings.value_clip).sum()
        # Two networks that share nothing: one backward pass, and no coefficient between the losses.
        ((loss + value_loss) / count * share).backward()  # type: ignore[no-untyped-call]
        for compute in self.computes:
            compute.collect()
        ratio_A = (logprobs_A.detach() - part.old_A).exp()
        return torch.stack([loss.detach(), value_loss.detach(), ((ratio_A - 1.0).abs() > settings.clip).sum()])

    def step(self, settings: Settings) -> list[float]:
        """One optimizer step of each model; returns the norms of their gradients before clipping."""
        models, rates = (self.policy, self.value), (settings.lr, settings.value_lr)
        both = zip(self.optimizers, models, rates, strict=True)
        norms = [take_step(optimizer, model.parameters(), lr, settings.grad_clip) for optimizer, model, lr in both]
        self.refresh()
        return norms


def check_ratio(logprobs_A: Tensor, old_A: Tensor, dtype: torch.dtype, ranks: Ranks = ALONE) -> None:
    """Before the first step the policy is π_old: a ratio other than 1 means that they were measured differently.

    Raises L2Error then, on all ranks, because every later number would be wrong.
    """
    found = float((logprobs_A.detach() - old_A).exp().sub(1.0).abs().max())
    (gap,) = ranks.most([math.inf if math.isnan(found) else found])
    if gap > (1e-4 if dtype == torch.float32 else 1e-2):
        raise L2Error(
            f"the ratio π/π_old is {gap:.2g} away from 1 before the first step; the policy is not deterministic"
        )


def learn(learner: Learner, minis: Sequence[Sequence[Part]], settings: Settings) -> dict[str, float]:
    """One optimizer step of policy and value for each mini-batch: sums over its actions / their number (paper §3.2.3).

    minis: this rank's parts of each mini-batch, one at least. Ranks compute in step with one another: one that has
    fewer parts than another computes its first again, for nothing.
    Returns means over all actions (losses, clip_fraction) and over steps (gradient norms before clipping).
    Raises L2Error when the ratio is not 1 before the first step, or a loss is no number.
    """
    names, ranks = ("loss", "value_loss", "clip_fraction"), learner.ranks
    sums, total = dict.fromkeys(names, 0.0), 0.0
    norms = [0.0, 0.0]
    for number, mini in enumerate(minis):
        (count,) = ranks.total([sum(len(part.old_A) for part in mini)])
        (rounds,) = ranks.most([len(mini)])
        for i in range(int(rounds)):
            own = i < len(mini)
            share = float(own * ranks.world)  # FSDP divides by the ranks again
            found = learner.backward(mini[i if own else 0], settings, count, number == 0, share).tolist()
            sums = {name: sums[name] + own * value for name, value in zip(names, found, strict=True)}
        total += count
        norms = [norm + one / len(minis) for norm, one in zip(norms, learner.step(settings), strict=True)]
    means = {name: value / total for name, value in zip(names, ranks.total([*sums.values()]), strict=True)}
    return means | {"grad_norm": norms[0], "value_grad_norm": norms[1]}
