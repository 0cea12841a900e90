"""A world whose optimum is known, and what PPO makes of it: the certificate of `l2 ppo --selftest`.

A bandit: one prompt, one token to draw. argmax E[r] - β KL(π ‖ π_0) over all π is the Gibbs policy π_0 exp(r/β) / Z,
so that every part of the machine is checked at once, the sign of the KL and the whitening among them. Policy and value
are the models of every run, of no layers; sampling, measuring and learning are those of every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from l2.align.ppo import Learner, Settings, Whitening
from l2.align.ppo_run import Ppo
from l2.align.rollouts import Prompt, RewardFn
from l2.align.watch import Line, State
from l2.model.config import ModelConfig
from l2.model.transformer import LanguageModel, ScalarModel

WIDTH = 64
# The paper's rate is constant; here it falls, to see the fixed point and not the noise around it: (rate, iterations).
PLAN = ((3e-3, 18), (5e-4, 18), (5e-5, 18))


def bandit(logits: Tensor) -> LanguageModel:
    """A policy that draws tokens by `logits` [V], whatever came before."""
    config = ModelConfig(len(logits), WIDTH, 0, 1, 1, 2, 1, max_seq_len=8)
    model = LanguageModel(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(1.0)
        model.lm_head.weight.copy_(logits[:, None] / WIDTH)
    return model


def probs(policy: LanguageModel) -> Tensor:
    """What it draws by [V]."""
    with torch.no_grad():
        found: Tensor = policy(torch.tensor([[1]]))[0, 0].double().softmax(-1)
    return found


def gibbs(start: LanguageModel, reward_V: Tensor, beta: float) -> Tensor:
    """π_0 exp(r/β) / Z [V]."""
    return (probs(start).log() + reward_V.double() / beta).softmax(-1)


def total_variation(p: Tensor, q: Tensor) -> float:
    """½ Σ |p - q|: the most by which the chances of any event differ."""
    return float((p - q).abs().sum()) / 2


def world(start_V: Tensor, score: RewardFn, *, tagged: bool = False, **changes: object) -> Ppo:
    """PPO on a bandit. With `tagged` every other prompt may elicit something unsafe."""
    settings = replace(Settings(micro_batch=64, max_new_tokens=1, whitening="off"), **changes)  # type: ignore[arg-type]
    prompts = [Prompt([1], str(i), tagged and i % 2 == 0) for i in range(settings.batch)]
    policy = bandit(start_V)
    value = ScalarModel(policy.config)
    value.model.load_state_dict(policy.model.state_dict())
    torch.nn.init.zeros_(value.score.weight)
    return Ppo(Learner(policy, value), bandit(start_V), score, prompts, settings)


def play(ppo: Ppo, plan: Sequence[tuple[float, int]] = PLAN) -> tuple[State, list[Line]]:
    """Run it for (learning rate, iterations) of the plan."""
    state, lines, given = State(whitening=Whitening(ppo.settings.whitening)), [], ppo.settings
    for lr, iterations in plan:
        ppo.settings = replace(given, lr=lr, value_lr=lr)
        lines += [ppo.iterate(state) for _ in range(iterations)]
    return state, lines


def arms() -> tuple[Tensor, Tensor]:
    """Rewards [16], and the logits of π_0 [16]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(16, generator=generator), 0.5 * torch.randn(16, generator=generator)


@dataclass(frozen=True)
class Finding:
    """One thing the certificate says."""

    what: str
    found: str
    holds: bool


def certify(beta: float = 0.5) -> list[Finding]:
    """Run PPO on a bandit of 16 arms, and compare what it finds with what is known."""
    reward, start = arms()
    ppo = world(start, lambda _, drawn: (reward[[answer[0] for answer in drawn]], None), beta=beta)
    steps = [0, 0]
    for i, optimizer in enumerate(ppo.learner.optimizers):
        optimizer.register_step_post_hook(lambda *_, i=i: steps.__setitem__(i, steps[i] + 1))
    _, lines = play(ppo)
    best, found, began = gibbs(ppo.reference, reward, beta), probs(ppo.learner.policy), probs(ppo.reference)
    distance, before = total_variation(found, best), total_variation(began, best)

    def kl(p: Tensor) -> float:
        return float((p * (p / began).log()).sum())

    gap = max(line["sampler_gap"] for line in lines)
    share = ppo.settings.batch // ppo.settings.mini_batch
    worth = [float((p * reward).sum()) - beta * kl(p) for p in (began, found, best)]
    return [
        Finding("distance to the Gibbs policy", f"{distance:.4f}, at first {before:.3f}", distance < 0.01 < before),
        Finding(
            "reward less β KL",
            "{1:.4f} of at most {2:.4f}, at first {0:.4f}".format(*worth),
            worth[1] > 0.99 * worth[2],
        ),
        Finding(
            "KL to the reference, nats",
            f"{kl(found):.4f}, of the optimum {kl(best):.4f}",
            abs(kl(found) - kl(best)) < 0.03,
        ),
        Finding("KL before the first step", f"{lines[0]['kl']:g}", lines[0]["kl"] == 0.0),
        Finding("log π sampled less log π learned", f"{gap:.1g} at most", gap < 1e-5),
        Finding(
            f"optimizer steps an iteration of {ppo.settings.batch} answers",
            f"{steps[0] / len(lines):g}, in mini-batches of {ppo.settings.mini_batch}",
            steps == [share * len(lines)] * 2,
        ),
    ]
