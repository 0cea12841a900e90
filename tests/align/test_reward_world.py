"""A world whose reward is known, a sum over the words of an answer: what can be learned of it is known, too.

Answers are words drawn at random; who compares two prefers the first with the probability σ(r - r') (Bradley and
Terry), and rates by the distance. The best that any model can do is to rank by r: the Bayes rate.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from l2.align.losses import MARGINS, RATINGS
from l2.align.preferences import SAFE, UNLABELLED, Pair
from l2.align.reward import Ranking, final_scores, pair_micro
from l2.model.checkpoint import new_model, scalar_from
from l2.train.loop import Settings, prepare, update
from tests.conftest import small_config

WORDS, ASKED, SAID = 20, 3, 6  # words, and how many of them a prompt and an answer have
BOUNDS = (2.0, 1.2, 0.5)  # least distance of "significantly", "better", "slightly"
UNSAFE = 2  # the first words, which nobody should say
BATCH = 256


class World(NamedTuple):
    """Pairs, and what is true of them: how much better the first answer is by r, which was chosen, which are safe."""

    pairs: list[Pair]
    distance: np.ndarray
    flipped: np.ndarray  # the worse one was chosen


def rating(distance: float) -> str:
    return next((r for r, bound in zip(RATINGS, BOUNDS, strict=False) if distance >= bound), RATINGS[-1])


def world(count: int, seed: int, margin: str = "none", *, safety: bool = False) -> World:
    draw = np.random.default_rng(seed)
    worth = np.random.default_rng(99).normal(0, 0.9, WORDS)
    if safety:
        worth[:UNSAFE] = -0.3
    prompts = draw.integers(WORDS, size=(count, 1, ASKED)).repeat(2, 1)
    share = np.full(WORDS, 1.0)
    if safety:
        share[:UNSAFE] = 0.7
    answers = draw.choice(WORDS, (count, 2, SAID), p=share / share.sum())
    rewards = worth[answers].sum(-1) / np.sqrt(SAID) * 1.5
    first = draw.random(count) < 1 / (1 + np.exp(rewards[:, 1] - rewards[:, 0]))
    order = np.where(first[:, None], [0, 1], [1, 0])
    answers = np.take_along_axis(answers, order[:, :, None], 1)
    distance = np.take_along_axis(rewards, order, 1) @ [1, -1]
    safe = ~(answers < UNSAFE).any(-1)
    wanted = (answers[:, 0] != answers[:, 1]).any(-1) & (safe[:, 0] | ~safe[:, 1] | (not safety))
    ids = np.concatenate([np.ones((count, 2, 1)), prompts + 3, answers + 3, np.full((count, 2, 1), 2)], 2).astype(int)
    pairs = []
    for i in np.flatnonzero(wanted):
        how = rating(abs(distance[i]))
        label = (float(safe[i, 0]), float(safe[i, 1])) if safety else UNLABELLED
        pairs.append(Pair(*ids[i].tolist(), MARGINS[margin][how], label, how))
    return World(pairs, np.abs(distance[wanted]), distance[wanted] < 0)


def trained(pairs: list[Pair], aux: float = 0.0):
    """A small model after one pass over the pairs, as l2 rm-train makes it but for size and learning rate."""
    torch.manual_seed(0)
    model = scalar_from(new_model(small_config(WORDS + 3, n_layers=1)), seed=0).train()
    objective = Ranking(pairs, BATCH, BATCH, 1, 0, model.config.dim, aux)
    settings = Settings(steps=objective.steps, lr=1e-2, warmup=5)
    training = prepare(model, objective, settings)
    for _ in range(settings.steps):
        update(objective, training, settings)
    return model.eval()


def scored(model, pairs: list[Pair]) -> np.ndarray:
    with torch.no_grad():
        return final_scores(model, pair_micro(pairs, model.config.dim).tensors).numpy()


def right(found: World, scores: np.ndarray) -> np.ndarray:
    """The chance that each pair is ranked as whoever compares it again would: the label's own noise left out."""
    sure = 1 / (1 + np.exp(-found.distance))
    as_truth = (scores[:, 0] > scores[:, 1]) != found.flipped
    return np.where(as_truth, sure, 1 - sure)


@pytest.fixture(scope="module")
def plain():
    return trained(world(20_000, 1).pairs)


def test_accuracy_is_the_bayes_rate_for_each_rating(plain):
    held_out = world(6000, 2)
    ours = right(held_out, scored(plain, held_out.pairs))
    best = 1 / (1 + np.exp(-held_out.distance))
    names = np.array([pair.rating for pair in held_out.pairs])
    rates = {name: (ours[names == name].mean(), best[names == name].mean()) for name in RATINGS}
    assert min((names == name).sum() for name in RATINGS) > 600
    for name, (found, bayes) in rates.items():
        assert bayes - 0.02 < found <= bayes, (name, found, bayes)
    assert [bayes for _, bayes in rates.values()] == sorted((bayes for _, bayes in rates.values()), reverse=True)
    assert rates["significantly"][1] > 0.85 and rates["negligibly"][1] < 0.6


def test_margins_pull_apart_what_people_are_sure_of(plain):
    """Paper A.3.3: with a margin the scores of clear pairs move apart, those of unclear ones do not."""
    held_out = world(6000, 2)
    sides = np.where(held_out.flipped, -1, 1)  # towards the better answer
    names = np.array([pair.rating for pair in held_out.pairs])
    gaps = {}
    for margin, model in ("none", plain), ("large", trained(world(20_000, 1, "large").pairs)):
        gap = scored(model, held_out.pairs) @ [1, -1] * sides
        gaps[margin] = [float(gap[names == name].mean()) for name in ("significantly", "negligibly")]
    growth = [after / before for before, after in zip(gaps["none"], gaps["large"], strict=True)]
    assert gaps["large"][0] - gaps["none"][0] > 1.0
    assert gaps["large"][0] - gaps["large"][1] > 1.3 * (gaps["none"][0] - gaps["none"][1]), (gaps, growth)


def test_the_auxiliary_loss_finds_the_unsafe_at_equal_accuracy():
    """Table 29 in kind: a ranking loss cares for differences alone, so that nothing says what a score of 0 means."""
    learned, held_out = world(16_000, 3, safety=True), world(6000, 4, safety=True)
    unsafe = np.array([[label == 0 for label in pair.safe] for pair in held_out.pairs])
    assert {pair.safe for pair in learned.pairs} == set(SAFE.values())
    found = {}
    for aux in (0.0, 0.1):
        scores = scored(trained(learned.pairs, aux), held_out.pairs)
        called = scores < 0
        ranked = (scores[:, 0] > scores[:, 1]).mean()
        found[aux] = ranked, (called & unsafe).sum() / unsafe.sum(), unsafe[called].mean()
    (accuracy, recall, _), (accuracy_aux, recall_aux, precision_aux) = found.values()
    assert accuracy_aux > accuracy - 0.01, found
    assert recall_aux > recall + 0.1 and recall_aux > 0.95 and precision_aux > 0.9, found
