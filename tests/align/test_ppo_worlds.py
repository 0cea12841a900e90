"""Worlds whose answers are known: bandits and their Gibbs policies, walks and shortest paths, a flawed reward."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from l2.align.ppo import PRESETS, Learner
from l2.align.ppo_run import Ppo
from l2.align.rollouts import Prompt
from l2.align.selftest import arms, certify, gibbs, play, probs, total_variation, world
from l2.align.watch import State, alarms
from l2.generate.engine import Sampling, generate
from l2.generate.scoring import pad
from l2.model.checkpoint import new_model, scalar_from
from l2.model.transformer import LanguageModel
from l2.train.optim import adamw, take_step
from l2.train.pretrain import token_losses
from tests.conftest import small_config

EOS = 2


# One prompt, one token to draw ---


def pays(reward: torch.Tensor):
    return lambda _, drawn: (reward[[answer[0] for answer in drawn]], None)


def test_the_certificate_holds():
    """Whitening off: argmax E[r] - β KL(π ‖ π_0) is π_0 exp(r/β) / Z, found to a total variation of 0.01."""
    findings = certify()
    assert len(findings) == 6 and all(finding.holds for finding in findings), findings


def test_frozen_whitening_turns_beta_into_beta_times_its_std():
    reward, start = arms()
    ppo = world(start, pays(reward), beta=0.5, whitening="frozen")
    state, _ = play(ppo)
    assert state.whitening.std != 1.0
    assert total_variation(probs(ppo.learner.policy), gibbs(ppo.reference, reward, 0.5 * state.whitening.std)) < 0.01


def test_whitening_each_batch_moves_the_optimum():
    """The same bandit collapses to one arm: whitening blows up what spread is left. An alarm says so."""
    reward, start = arms()
    ppo = world(start, pays(reward), beta=0.5, whitening="batch")
    state, lines = play(ppo, [(3e-3, 45)])
    assert float(probs(ppo.learner.policy).max()) > 0.98
    state.remember(lines[0])
    assert "whitening" in alarms(lines[-1], state, ppo.settings)
    assert "whitening" not in alarms(lines[-1], state, replace(ppo.settings, whitening="frozen"))


@pytest.mark.parametrize("tagged", [True, False])
def test_the_gate_keeps_the_policy_safe(tagged):
    """An unsafe token that helpfulness likes: chosen without the safety model, shunned with it, tagged or not."""
    helpful, safe = torch.tensor([3.0, 0.0]), torch.tensor([-3.0, 3.0])

    def gated(_, drawn):
        index = [answer[0] for answer in drawn]
        return helpful[index], safe[index]

    small = {"batch": 128, "mini_batch": 32, "micro_batch": 32, "whitening": "batch", "beta": 0.01}
    for score, low, high in ((gated, 0.0, 0.05), (lambda *both: (gated(*both)[0], None), 0.9, 1.0)):
        ppo = world(torch.zeros(2), score, tagged=tagged, **small)
        play(ppo, [(3e-3, 30)])
        assert low <= float(probs(ppo.learner.policy)[0]) <= high


# Sequences ---


def sevens(_, drawn) -> tuple[torch.Tensor, None]:
    return torch.tensor([answer.count(7) / 32 for answer in drawn]), None


def writer(seed: int = 0) -> LanguageModel:
    return new_model(small_config(24), seed)


def over(policy: LanguageModel, reference: LanguageModel, score, prompts: Sequence[Prompt], **changes) -> Ppo:
    value = scalar_from(new_model(policy.config, 1), zero_head=True)
    settings = replace(PRESETS["tiny"], **changes)
    return Ppo(Learner(policy, value), reference, score, prompts, settings)


ASKED = [Prompt([1, 3 + i % 20, 3 + i // 20], str(i)) for i in range(200)]


def test_it_learns_to_write_sevens():
    """32 tokens of 24: from the 4 % of chance to over half, with EOS among the tokens to unlearn."""
    ppo = over(writer(), writer(), sevens, ASKED, lr=3e-3, value_lr=3e-3, max_new_tokens=32, no_eos_penalty=0.0)
    state = State()
    lines = [ppo.iterate(state) for _ in range(14)]
    assert lines[0]["reward"] < 0.06 and lines[-1]["reward"] > 0.5
    assert lines[0]["kl"] == 0.0 and lines[-1]["kl"] > 1.0 and lines[-1]["explained_variance"] > 0.1
    # Sampler = scorer: what was drawn through the cache is what the forward pass of training says.
    assert max(line["sampler_gap"] for line in lines) < 1e-5


def imitate(policy: LanguageModel, rows: Sequence[Sequence[int]], begins: int, steps: int, lr: float = 3e-3) -> None:
    """Plain fine-tuning on what comes after the first `begins` tokens of `rows`, 64 of them a step."""
    optimizer, chance = adamw(policy), random.Random(0)
    for _ in range(steps):
        tokens, lengths = pad(chance.choices(rows, k=64))
        at = torch.arange(tokens.shape[1] - 1)
        learned = (at >= begins - 1) & (at < lengths[:, None] - 1)
        token_losses(policy, policy.hidden(tokens)[:, :-1][learned], tokens[:, 1:][learned]).mean().backward()
        take_step(optimizer, policy.parameters(), lr)


NODES, FIRST, LONGEST = 10, 3, 9  # node n is token FIRST + n; node 0 is the goal


def graph() -> tuple[list[list[int]], list[int]]:
    """Edges of each node, and its distance to the goal by breadth-first search."""
    chance = random.Random(0)
    edges = [sorted(chance.sample([m for m in range(NODES) if m != n], 2)) for n in range(NODES)]
    distance, queue = {0: 0}, deque([0])
    while queue:
        here = queue.popleft()
        for n in range(NODES):
            if here in edges[n] and n not in distance:
                distance[n] = distance[here] + 1
                queue.append(n)
    return edges, [distance[n] for n in range(NODES)]


def test_it_finds_shortest_paths():
    """Credit over a sequence (the random walks of trlx): a policy that strolls about a graph learns to go straight."""
    edges, distance = graph()
    assert max(distance) >= 3
    chance, strolls = random.Random(1), []
    for i in range(2000):
        walk = [1 + i % (NODES - 1)]
        while walk[-1] and len(walk) < LONGEST:
            walk.append(chance.choice(edges[walk[-1]]))
        strolls.append([1, *(FIRST + n for n in walk), *([EOS] if not walk[-1] else [])])

    def steps(start: int, answer: Sequence[int]) -> int | None:
        """How many a walk takes to the goal, or None where it is none."""
        nodes = [start, *(token - FIRST for token in answer if token != EOS)]
        if answer[-1] != EOS or any(b not in edges[a] for a, b in itertools.pairwise(nodes) if 0 <= a < NODES):
            return None
        return len(nodes) - 1 if 0 not in nodes[:-1] and nodes[-1] == 0 else None

    def optimality(prompt: Sequence[int], answer: Sequence[int]) -> float:
        start = prompt[1] - FIRST
        taken = steps(start, answer)
        return 0.0 if taken is None else (LONGEST - taken) / (LONGEST - distance[start])

    def score(prompts, drawn) -> tuple[torch.Tensor, None]:
        return torch.tensor([optimality(*both) for both in zip(prompts, drawn, strict=True)]), None

    policy = new_model(small_config(16, max_seq_len=16), 0)
    imitate(policy, strolls, 2, 120)
    reference = new_model(policy.config, 0)
    reference.load_state_dict(policy.state_dict())
    prompts = [Prompt([1, FIRST + 1 + i % (NODES - 1)], str(i)) for i in range(288)]
    ppo = over(
        policy, reference, score, prompts, batch=144, mini_batch=36, micro_batch=36, lr=2e-3, value_lr=4e-3,
        max_new_tokens=LONGEST, no_eos_penalty=0.0, beta=0.01,
    )  # fmt: skip
    state = State()
    lines = [ppo.iterate(state) for _ in range(16)]
    answers = generate(policy, [p.ids for p in prompts], range(len(prompts)), Sampling(max_new_tokens=LONGEST, seed=9))
    both = [(p.ids, a.tokens) for p, (a,) in zip(prompts, answers, strict=True)]
    exact = [steps(p[1] - FIRST, a) == distance[p[1] - FIRST] for p, a in both]
    assert lines[0]["reward"] < 0.6
    assert sum(optimality(*one) for one in both) / len(both) >= 0.95 and sum(exact) / len(exact) >= 0.8


def test_versions_rise_until_the_flaw_of_the_reward_is_found():
    """V1 to V3 by rejection sampling, each from the base, on a reward that has a flaw; then PPO on it.

    People like sevens, but not more than 16 of 32; the reward model never learned that there can be too many. The true
    reward rises with each version, and PPO is warned before it falls.
    """
    base, k, asked = writer(), 4, ASKED[:96]

    def truly(answer: Sequence[int]) -> float:
        count = answer.count(7)
        return (count if count <= 16 else 32 - count) / 32

    def mean(policy: LanguageModel) -> float:
        answers = generate(policy, [p.ids for p in asked], range(96), Sampling(max_new_tokens=32, seed=77))
        return sum(truly(a.tokens) for (a,) in answers) / len(asked)

    policy, worth, pool = base, [mean(base)], [[] for _ in asked]
    for version in range(3):
        drawn = generate(policy, [p.ids for p in asked], range(96), Sampling(max_new_tokens=32, seed=version), k=k)
        for group, answers in zip(pool, drawn, strict=True):
            group += [answer.tokens for answer in answers]
        best = [max(group, key=lambda answer: answer.count(7)) for group in pool]
        policy = writer()  # from the base
        imitate(policy, [p.ids + answer for p, answer in zip(asked, best, strict=True)], 3, 40)
        worth.append(mean(policy))
    assert all(b > a + 0.01 for a, b in itertools.pairwise(worth)), worth

    def both(_, drawn):
        true.append(sum(map(truly, drawn)) / len(drawn))
        return sevens(_, drawn)

    true: list[float] = []
    ppo = over(policy, base, both, asked, lr=2e-3, value_lr=2e-3, max_new_tokens=32, no_eos_penalty=0.0)
    state, warned = State(), []
    for _ in range(12):
        line = ppo.iterate(state)
        state.remember(line)
        warned.append(set(alarms(line, state, ppo.settings)))
    peak = max(range(12), key=true.__getitem__)
    first = next(i for i, found in enumerate(warned) if found & {"kl", "repetition"})
    assert true[peak] > true[0] + 0.05 and true[-1] < true[peak] - 0.1
    assert first <= peak, (first, peak, true)
