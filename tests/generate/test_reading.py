"""Texts read together against each alone; the step that a GPU would capture, run without one."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from l2.generate import graphs, scoring
from l2.generate.decoder import Decoder
from l2.generate.graphs import Graphs
from l2.generate.kernels import Kernels
from l2.generate.layers import kernels_of
from l2.generate.reading import SHARED, Plan, read_ends
from l2.generate.scoring import last_scores
from l2.model.checkpoint import new_model, scalar_from
from tests.conftest import small_config
from tests.generate.test_decoder import SHAPES, lively
from tests.model.test_transformer import tokens


def branching(seed: int, count: int = 24) -> list[list[int]]:
    """Texts that go on from others at any place, some from 16 tokens or more, and some that are others."""
    random = Random(seed)
    texts = [[1]]
    while len(texts) < count:
        before = random.choice(texts)
        more = [random.randrange(3, 8) for _ in range(random.choice([0, 1, 3, 17, 25]))]
        texts.append((before[: random.randrange(1, len(before) + 1)] + more)[:60])
    random.shuffle(texts)
    return texts


def compiled_for(model) -> Kernels:
    return kernels_of(model) or pytest.skip("no C++ compiler")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_a_plan_holds_each_text_once(seed):
    """Following the parents of each last span gives back the texts, and each state that is asked for is found among
    those that are given; nothing long is read twice."""
    texts = sorted({tuple(text) for text in branching(seed)})
    random = Random(seed)
    wanted = [random.randrange(1, len(text) + 1) for text in texts]
    plan = Plan(texts, wanted)
    starts = np.cumsum([0, *plan.counts])
    whole: list[list[int]] = []
    for number, parent in enumerate(plan.parents):
        above = whole[parent] if parent >= 0 else []
        whole.append(above + plan.tokens[starts[number] : starts[number + 1]])
    ends = {len(whole) - 1 - whole[::-1].index(list(text)) for text in texts}
    assert set(range(len(whole))) - set(plan.parents) == ends
    states = [tuple(text[: len(text) - n + 1 + i]) for text, n in zip(whole, plan.asked, strict=True) for i in range(n)]
    for text, count, where in zip(texts, wanted, plan.places(), strict=True):
        assert [states[i] for i in where] == [text[: end + 1] for end in range(len(text) - count, len(text))]
    assert min(plan.counts) > 0 and len(plan.tokens) == sum(plan.counts)
    siblings: dict[int, list[list[int]]] = {}
    for number, parent in enumerate(plan.parents):
        siblings.setdefault(parent, []).append(plan.tokens[starts[number] : starts[number + 1]])
    for some in siblings.values():
        for a, b in pairwise(some):
            assert a[: SHARED + 1] != b[: SHARED + 1] or len(a) <= SHARED + 1


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_texts_read_together_are_each_alone(shape):
    model, texts = lively(**shape), branching(3)
    with torch.inference_mode():
        ends = read_ends(model, compiled_for(model), texts)
        for text, end in zip(texts, ends, strict=True):
            torch.testing.assert_close(end, model.hidden(torch.tensor([text]))[0, -1], atol=1e-4, rtol=0)


def test_answers_to_one_prompt_are_scored_with_the_prompt_read_once(monkeypatch):
    """In any batch, and as torch scores each alone."""
    judge = scalar_from(new_model(small_config(), 4), seed=4).eval()
    compiled_for(judge)
    prompt = tokens(1, 30, 370)[0].tolist()
    rows = [prompt + tokens(1, n, 370)[0].tolist()[::-1] for n in (3, 30, 12, 7)] + [[1, 5]]
    read: list[int] = []
    spy = Kernels.attend
    monkeypatch.setattr(Kernels, "attend", lambda self, q, *rest: read.append(len(q)) or spy(self, q, *rest))
    together = last_scores(judge, rows)
    assert read == [30 + 3 + 30 + 12 + 7 + 2] * 2  # two layers
    assert last_scores(judge, rows, batch_size=1) == pytest.approx(together, abs=1e-5)
    monkeypatch.setattr(scoring, "kernels_of", lambda model: None)
    assert last_scores(judge, rows) == pytest.approx(together, abs=1e-5)


@pytest.mark.parametrize("used", [4, 256])
def test_a_step_of_fixed_sizes_is_the_step(used, monkeypatch):
    """As on a GPU but for the capture: rows made up to a power of two, slots to a multiple, buffers that stay."""
    monkeypatch.setattr("l2.generate.layers.kernels", lambda *shape: None)
    monkeypatch.setattr(graphs, "USED", used)
    model, whole = lively(n_kv_heads=2), tokens(6, 20)
    with torch.inference_mode():
        expected, decoder = model(whole), Decoder(model, 6, 20)
        decoder.graphs = Graphs(decoder._written, 6, 20, model.config.vocab_size, model.device)
        for at in range(20):
            rows = 6 - at // 4  # rows leave: 6 6 6 6 5 5 ..
            logits = decoder.step(whole[:rows, at].tolist(), np.full(rows, at))
            torch.testing.assert_close(logits, expected[:rows, at], atol=1e-4, rtol=0)
        assert {size for size, _ in decoder.graphs.captured} == {6, 4, 2}
