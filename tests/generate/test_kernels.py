"""The compiled kernels against torch, and decoding without them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from l2.generate.decoder import Decoder
from l2.generate.engine import Sampling, draw, penalise, uniform
from l2.generate.kernels import PAGE, Kernels, kernels
from tests.generate.test_decoder import SHAPES, lively, test_each_step_has_the_transformers_logits
from tests.model.test_transformer import tokens

PRECISION = {torch.float32: 2e-5, torch.bfloat16: 3e-2}
DTYPES = st.sampled_from(list(PRECISION))


def compiled_for(dtype: torch.dtype, head_dim: int, group: int) -> Kernels:
    return kernels(dtype, head_dim, group) or pytest.skip("no C++ compiler")


def dense(q, k, v):
    """softmax(q·k / √C)·v of the last len(q) of len(k) tokens: q [N, H, C], k and v [S, K, C]; computed in fp64."""
    (N, H, C), (S, K, _) = q.shape, k.shape
    q, k, v = q.double(), k.double().repeat_interleave(H // K, 1), v.double().repeat_interleave(H // K, 1)
    scores = torch.einsum("nhc,shc->hns", q, k) / C**0.5
    late = torch.arange(S) > torch.arange(S - N, S)[:, None]
    return torch.einsum("hns,shc->nhc", scores.masked_fill(late, float("-inf")).softmax(-1), v)


def rounding(q, k, v) -> float:
    """What fp32 may lose in `dense`: a score is a sum of up to max |q|·|k| / √C, and a weight moves as much as it."""
    group = q.shape[1] // k.shape[1]
    sums = torch.einsum("nhc,shc->hns", q.abs().double(), k.abs().double().repeat_interleave(group, 1))
    return 2 * torch.finfo(torch.float32).eps * (sums.max() / q.shape[-1] ** 0.5 * v.abs().max()).item()


def turned(x, positions, angles):
    """Pairs (i, i + C/2) of x [N, heads, C] turned by angles[position]."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = angles.cos()[positions][:, None], angles.sin()[positions][:, None]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(8, 1), (8, 4), (6, 3), (64, 8)]),
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20), st.integers(-1, 4)), min_size=1, max_size=7),
    DTYPES,
    st.integers(0, 2**31),
)
def test_attention_is_that_of_each_text_alone(shape, kv_heads, drawn, dtype, seed):
    """Spans that hold tokens already or go on from others, any number of new tokens, against dense attention in fp64.

    Slots after those that are held are NaN before: they are never looked at.
    """
    (C, group), random = shape, torch.Generator().manual_seed(seed)
    fast, loud = compiled_for(dtype, C, group), 3 if dtype == torch.float32 else 1
    spans, texts, pages = [], [], 0  # texts: the keys and values of all that a span goes on from, and its own
    table = torch.rand(400, C // 2, generator=random) * 7
    N = sum(count for _, count, _ in drawn)
    wide = torch.randn(N, kv_heads * (group + 2) * C, generator=random) * loud
    q, k, v = wide.to(dtype).split([kv_heads * group * C, kv_heads * C, kv_heads * C], dim=-1)
    first = 0
    total = sum(-(-(held + count) // PAGE) for held, count, _ in drawn) * kv_heads
    kept = tuple(torch.full((total, PAGE * C), float("nan"), dtype=dtype) for _ in range(2))
    for number, (held, count, up) in enumerate(drawn):
        parent = up if up < number else -1
        before = len(texts[parent][0]) if parent >= 0 else 0
        stride = -(-(held + count) // PAGE)
        old_k, old_v = (torch.randn(held, kv_heads, C, generator=random).to(dtype) for _ in range(2))
        for head in range(kv_heads):
            mine = slice(pages + head * stride, pages + (head + 1) * stride)
            by_channel = kept[0][mine].view(stride, C, PAGE)
            for slot in range(held):
                by_channel[slot // PAGE, :, slot % PAGE] = old_k[slot, head]
            kept[1][mine].view(-1, C)[:held] = old_v[:, head]
        at = torch.arange(before + held, before + held + count)
        new = slice(first, first + count)
        new_k = turned(k[new].view(count, kv_heads, C), at, table).to(dtype)
        above = texts[parent] if parent >= 0 else (old_k[:0], old_v[:0])
        texts.append(
            (torch.cat((above[0], old_k, new_k)), torch.cat((above[1], old_v, v[new].reshape(count, kv_heads, C))))
        )
        asked = seed % (count + 1)
        spans.append([first, count, asked, held, parent, pages, stride])
        first, pages = first + count, pages + kv_heads * stride
    out = fast.attend(q, (k, v), (table.cos(), table.sin()), kept, kv_heads, np.array(spans))
    for (start, count, asked, held, parent, _, _), (some_k, some_v) in zip(spans, texts, strict=True):
        before = len(texts[parent][0]) if parent >= 0 else 0
        at = torch.arange(before + held, before + held + count)
        turned_q = turned(q[start : start + count].view(count, -1, C), at, table)
        expected = dense(turned_q, some_k, some_v)[count - asked :]
        ours = out[start + count - asked : start + count].view(asked, kv_heads * group, C)
        within = PRECISION[dtype] + rounding(turned_q, some_k, some_v)
        torch.testing.assert_close(ours.double(), expected, atol=within, rtol=PRECISION[dtype])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 300), DTYPES, st.floats(1e-3, 1e3))
def test_the_norm_is_torchs(rows, dim, dtype, size):
    random = torch.Generator().manual_seed(dim)
    x, weight = (torch.randn(n, dim, generator=random).to(dtype) for n in (rows, 1))
    fast = compiled_for(dtype, 8, 1)
    expected = F.rms_norm(x.float() * size, (dim,), weight[0].float(), 1e-5)
    out = fast.norm((x * size).to(dtype), weight[0], 1e-5).float()
    torch.testing.assert_close(out, expected, atol=PRECISION[dtype], rtol=PRECISION[dtype])


def test_a_row_alone_is_the_row_in_a_batch():
    """One row is decoded from the weights as they are, in C; several with oneDNN's products."""
    for shape in SHAPES:
        model = lively(**shape)
        whole = tokens(2, 12)
        with torch.inference_mode():
            both, one = Decoder(model, 2, 12), Decoder(model, 1, 12)
            for at in range(12):
                lengths, ids = np.full(2, at), whole[:, at].tolist()
                together = both.step(ids, lengths)
                torch.testing.assert_close(one.step(ids[:1], lengths[:1]), together[:1], atol=1e-4, rtol=0)


def test_extreme_numbers_are_kept():
    """Scores that differ by more than exp can tell, and numbers that are none, come out as torch has them."""
    fast = compiled_for(torch.float32, 8, 1)
    k, v = torch.zeros(8, PAGE), torch.arange(PAGE * 8.0).view(PAGE, 8)
    k[:, 1] = 1e6
    still, span = (torch.ones(4, 4), torch.zeros(4, 4)), np.array([[0, 1, 1, 3, -1, 0, 1]])
    new = torch.ones(1, 8), (torch.zeros(1, 8), torch.full((1, 8), 5.0))
    kept = k.view(1, -1).clone(), v.view(1, -1).clone()
    assert torch.equal(fast.attend(*new, still, kept, 1, span), v[1:2])
    k[:, 2] = float("nan")
    assert fast.attend(*new, still, (k.view(1, -1), kept[1]), 1, span).isnan().all()


SAMPLERS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 1e-40, 0.3, 1.0, 1.7]),
    top_p=st.sampled_from([1.0, 0.0, 0.3, 0.9, 0.999]),
    top_k=st.sampled_from([0, 1, 5, 10**6]),
    repetition_penalty=st.sampled_from([1.0, 1.4]),
    seed=st.integers(-(2**63), 2**64 - 1),
)


@settings(max_examples=150, deadline=None)
@given(SAMPLERS, st.sampled_from([1, 2, 3, 60, 700]), st.sampled_from([0.0, 0.1, 3.0, 30.0]), st.integers(0, 2**31))
def test_draws_are_torchs(sampling, vocab, size, seed):
    """The same token for the same uniform number, but at a border within rounding; its log-probability; its mark."""
    fast, rows, random = compiled_for(torch.float32, 8, 1), 9, torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocab, generator=random) * size
    logits[4] = logits[4].round()  # equal logits
    seen = torch.rand(rows, vocab, generator=random) < 0.3 if sampling.repetition_penalty != 1 else None
    numbers = np.random.default_rng(seed)
    where = numbers.integers(0, 2**64, rows, np.uint64), np.arange(rows), numbers.integers(0, 9, rows)
    u = torch.from_numpy(uniform(sampling.seed, *where))
    given_ = logits if seen is None else penalise(logits, seen, sampling.repetition_penalty)
    tokens_B, logprobs_B = draw(given_, u, sampling.temperature, sampling.top_p, sampling.top_k)
    marked = None if seen is None else seen.clone()
    how = sampling.temperature, sampling.top_p, sampling.top_k, sampling.repetition_penalty
    ours, chances = fast.draw(logits, marked, where, sampling.seed, how)
    for near in (-1e-5, 1e-5):
        shifted, _ = draw(given_, (u + near).clamp(0, 1), sampling.temperature, sampling.top_p, sampling.top_k)
        tokens_B = torch.where(torch.from_numpy(ours) == shifted, shifted, tokens_B)
    same = torch.from_numpy(ours) == tokens_B
    assert same.all()
    torch.testing.assert_close(torch.from_numpy(chances), logprobs_B, atol=1e-5, rtol=0)
    if seen is not None:
        assert torch.equal(marked, seen.scatter(1, tokens_B[:, None], True))


def test_draws_of_no_numbers_are_no_numbers():
    fast, where = compiled_for(torch.float32, 8, 1), (np.zeros(3, np.uint64), np.arange(3), np.arange(3))
    logits = torch.zeros(3, 5)
    logits[0, 2], logits[1] = float("nan"), float("nan")
    for how in ((1.0, 1.0, 0, 1.0), (0.0, 1.0, 0, 1.0), (1.0, 0.5, 0, 1.0), (1.0, 1.0, 2, 1.0)):
        tokens, chances = fast.draw(logits, None, where, 0, how)
        assert np.isnan(chances[:2]).all() and np.isfinite(chances[2]) and (tokens >= 0).all() and (tokens < 5).all()


@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
@pytest.mark.parametrize("rows", [1, 5])
def test_without_a_compiler(shape, rows, monkeypatch):
    monkeypatch.setattr("l2.generate.layers.kernels", lambda *shape: None)
    test_each_step_has_the_transformers_logits(shape, rows)


def test_threads_share_the_work(monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for rows in (1, 5):
            test_each_step_has_the_transformers_logits({"n_kv_heads": 2}, rows)
    finally:
        torch.set_num_threads(threads)


def test_a_compiler_that_fails_and_a_cache_that_is_broken(monkeypatch, tmp_path):
    def built() -> bool:
        kernels.cache_clear()
        return kernels(torch.float32, 8, 1) is not None

    monkeypatch.setenv("CXX", "false")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert not built() and not list(tmp_path.iterdir())
    monkeypatch.setenv("CXX", "c++ -pipe")
    assert built()
    (library,) = tmp_path.rglob("*.so")
    library.write_bytes(b"torn")
    assert built() and library.stat().st_size > 4  # made whole again
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert built()  # in a place that is gone at once
    kernels.cache_clear()


def test_kinds_of_numbers_that_the_processor_lacks(monkeypatch):
    """fp16, and bf16 as on a CPU without its instructions: oneDNN refuses to pack them."""
    for dtype in (torch.float16, torch.bfloat16):
        model = lively().to(dtype)
        whole = tokens(3, 4)
        if dtype == torch.bfloat16:
            monkeypatch.setattr("l2.generate.layers.packs", lambda dtype: False)
        with torch.inference_mode():
            expected, decoder = model(whole), Decoder(model, 3, 4)
            for at in range(4):
                logits = decoder.step(whole[:, at].tolist(), np.full(3, at))
                assert (logits - expected[:, at]).abs().max() < 0.05 * expected[:, at].abs().max()


def test_a_full_cache_is_not_written_past():
    decoder = Decoder(lively(), 2, 5)
    with torch.inference_mode(), pytest.raises(AssertionError, match="no room"):
        decoder.step([3, 4], np.array([2, 5]))
