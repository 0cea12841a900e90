"""The compiled kernels against torch, and decoding without them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from l2.generate.decoder import Decoder
from l2.generate.kernels import attend, kernels
from tests.generate.test_decoder import SHAPES, lively, test_each_step_has_the_transformers_logits
from tests.model.test_transformer import tokens

PRECISION = {torch.float32: 2e-5, torch.bfloat16: 3e-2}
DTYPES = st.sampled_from(list(PRECISION))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([(8, 1), (8, 4), (6, 3)]),
    st.integers(1, 3),
    st.lists(st.integers(0, 69), min_size=1, max_size=7),
    DTYPES,
    st.integers(0, 2**31),
)
def test_attention_is_torchs(shape, kv_heads, lengths, dtype, seed):
    """Random cache, rows and lengths; scores far from zero; the slots after a row's last are never looked at."""
    (head_dim, group), rows, slots = shape, len(lengths), 70
    random = torch.Generator().manual_seed(seed)
    fast = kernels(dtype, head_dim, group)
    assert fast, "no C++ compiler"
    at = torch.tensor(lengths)
    k, v = (torch.randn(rows + 1, kv_heads, slots, head_dim, generator=random).to(dtype) for _ in range(2))
    for row, length in enumerate(lengths):
        k[row, :, length:] = v[row, :, length:] = float("nan")
    loud = 4 if dtype == torch.float32 else 1  # a rounded key is the further off the louder the query
    qkv = (loud * torch.randn(rows, kv_heads * (group + 2) * head_dim, generator=random)).to(dtype)
    angles = torch.rand(slots, head_dim // 2, generator=random) * 7
    ours, theirs = (k.clone(), v.clone()), (k.float().nan_to_num(), v.float().nan_to_num())
    out = fast.attend(qkv, angles.cos(), angles.sin(), *ours, at)
    expected = attend(qkv.float(), angles.cos(), angles.sin(), *theirs, at)
    torch.testing.assert_close(out.float(), expected, atol=PRECISION[dtype], rtol=PRECISION[dtype])
    for cache, reference, before in zip(ours, theirs, (k, v), strict=True):
        here = torch.arange(rows)
        torch.testing.assert_close(cache[here, :, at].float(), reference[here, :, at], atol=1e-6, rtol=1e-2)
        cache[here, :, at] = before[here, :, at]
        assert torch.equal(cache.nan_to_num(), before.nan_to_num())  # nothing else was written


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 300), DTYPES, st.floats(1e-3, 1e3))
def test_the_norm_is_torchs(rows, dim, dtype, size):
    random = torch.Generator().manual_seed(dim)
    x, weight = (torch.randn(n, dim, generator=random).to(dtype) for n in (rows, 1))
    fast = kernels(dtype, 8, 1)
    assert fast
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
                lengths = torch.full((2,), at)
                together = both.step(whole[:, at], lengths)
                torch.testing.assert_close(one.step(whole[:1, at], lengths[:1]), together[:1], atol=1e-4, rtol=0)


def test_extreme_numbers_are_kept():
    """Scores that differ by more than exp can tell, and numbers that are none, come out as torch has them."""
    fast = kernels(torch.float32, 8, 1)
    assert fast
    k, v = torch.zeros(1, 1, 4, 8), torch.arange(32.0).view(1, 1, 4, 8)
    k[0, 0, 1] = 1e6
    still = torch.ones(4, 4), torch.zeros(4, 4)
    qkv = torch.cat((torch.ones(1, 8), torch.zeros(1, 8), torch.full((1, 8), 5.0)), dim=1)
    assert torch.equal(fast.attend(qkv, *still, k, v.clone(), torch.tensor([3])), v[0, 0, 1:2])
    k[0, 0, 2] = float("nan")
    assert fast.attend(qkv, *still, k, v, torch.tensor([3])).isnan().all()


@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
@pytest.mark.parametrize("rows", [1, 5])
def test_without_a_compiler(shape, rows, monkeypatch):
    monkeypatch.setattr("l2.generate.decoder.kernels", lambda *shape: None)
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
            monkeypatch.setattr("l2.generate.decoder.packs", lambda dtype: False)
        with torch.inference_mode():
            expected, decoder = model(whole), Decoder(model, 3, 4)
            for at in range(4):
                logits = decoder.step(whole[:, at], torch.full((3,), at))
                assert (logits - expected[:, at]).abs().max() < 0.05 * expected[:, at].abs().max()


def test_a_full_cache_is_not_written_past():
    decoder = Decoder(lively(), 2, 5)
    with torch.inference_mode(), pytest.raises(AssertionError, match="no room"):
        decoder.step(torch.tensor([3, 4]), torch.tensor([2, 5]))
