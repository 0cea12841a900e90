"""The fused kernels against torch in double precision, and against the plain model."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from l2.model.checkpoint import new_model
from l2.model.transformer import LanguageModel, Where, rotate
from l2.train import fused
from l2.train.compute import Compute
from l2.train.pretrain import packed_loss
from tests.conftest import small_config

DTYPES = [torch.float32, torch.bfloat16]


def packed(B: int, T: int, lengths: list[int], vocab_size: int, seed: int) -> dict[str, torch.Tensor]:
    """Rows of documents of these lengths, each row beginning with another; a few positions are not learned."""
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, vocab_size, (B, T + 1), generator=random)
    targets = torch.where(torch.rand(B, T, generator=random) < 0.1, -1, tokens[:, 1:])
    positions = torch.zeros(B, T, dtype=torch.long)
    for b in range(B):
        row: list[int] = []
        while len(row) < T:
            row += range(lengths[(b + len(row)) % len(lengths)])
        positions[b] = torch.tensor(row[:T])
    return {"tokens_BT": tokens[:, :-1].contiguous(), "positions_BT": positions, "targets_BT": targets}


def gradients(model: LanguageModel, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    loss = packed_loss(model, tensors)["loss"]
    loss.backward()
    return {"loss": loss.detach().double()} | {n: w.grad.double() for n, w in model.named_parameters()}


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=15, deadline=None)
@given(
    shape=st.sampled_from([(4, 4, 8), (4, 2, 8), (6, 1, 4), (2, 1, 16)]),
    T=st.sampled_from([1, 2, 17, 127, 128, 129, 260]),
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_loss_and_every_gradient_are_the_plain_models(dtype, shape, T, lengths, seed):
    """To rounding: no farther from double precision than the plain model in the same dtype, twice over."""
    heads, kv_heads, channels = shape
    config = small_config(61, n_heads=heads, n_kv_heads=kv_heads, head_dim=channels, max_seq_len=T)
    model = new_model(config, seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2)  # attention chooses, and roundings do not grow a thousandfold as they may at 4
    tensors = packed(2, T, lengths, 61, seed)
    truth = gradients(deepcopy(model).double(), tensors)
    plain, fast = deepcopy(model).to(dtype), deepcopy(model).to(dtype)
    fused.fuse(fast)
    errors = []
    for found in (gradients(plain, tensors), gradients(fast, tensors)):
        errors.append(max(float((found[n] - truth[n]).norm() / (truth[n].norm() + 1e-3)) for n in truth))
    assert errors[1] < 2 * errors[0] + (2e-6 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize(("T", "dtype"), [(700, torch.bfloat16), (2500, torch.float32)])
def test_attention_over_long_contexts_is_torchs(T, dtype):
    """Output and gradients against scaled_dot_product_attention in double precision, with masks of documents."""
    B, K, G, C = 2, 1, 2, 8
    random = torch.Generator().manual_seed(0)
    positions_BT = packed(B, T, [T - 400, 33, 1, T], 61, 0)["positions_BT"]
    where = Where(small_config(61, n_heads=K * G, n_kv_heads=K, head_dim=C, max_seq_len=T), positions_BT, None, None)
    given = [torch.randn(B, T, heads * C, generator=random).to(dtype) for heads in (K * G, K, K, K * G)]

    def torchs(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (x.unflatten(2, (-1, C)).transpose(1, 2) for x in (q, k, v))
        cos, sin = where.cos.to(q.dtype), where.sin.to(q.dtype)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=where.mask, enable_gqa=True).transpose(1, 2).flatten(2)

    def found(attention: Callable[..., torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
        *inputs, dout = (x.to(dtype, copy=True).requires_grad_() for x in given)
        out = attention(*inputs)
        return [x.double() for x in (out, *torch.autograd.grad(out, inputs, dout))]

    truth, plain = found(torchs, torch.float64), found(torchs, dtype)
    ours = found(lambda q, k, v: fused._Attention.apply(q, k, v, where, K, C), dtype)
    for name, right, theirs, mine in zip(("out", "dq", "dk", "dv"), truth, plain, ours, strict=True):
        assert (mine - right).norm() < 2 * (theirs - right).norm() + 1e-6 * right.norm(), name


@pytest.mark.skipif(fused.library(torch.bfloat16) is None, reason="no C++ compiler")
def test_a_step_on_a_long_row_builds_no_mask(monkeypatch):
    """Forwards and backwards; the plain model asks for one."""

    def refused(where: Where) -> torch.Tensor:
        raise AssertionError("a mask was asked for")

    class Objective:
        def sums(self, model, tensors):
            return packed_loss(model, tensors)

    compute = Compute(new_model(small_config(61, max_seq_len=2**12)), Objective(), torch.bfloat16)
    monkeypatch.setattr(Where, "mask", property(refused))
    tensors = packed(1, 2**12, [700, 90], 61, 0)
    compute(tensors)["loss"].backward()
    with pytest.raises(AssertionError, match="a mask was asked for"):
        new_model(small_config(61))(tensors["tokens_BT"][:, :8])


def test_each_kernel_in_double_precision():
    random = torch.Generator().manual_seed(0)
    x, weight = torch.randn(37, 48, generator=random) * 30, torch.randn(48, generator=random)
    torch.testing.assert_close(
        fused._Norm.apply(x, weight, 1e-5).double(),
        F.rms_norm(x.double(), (48,), weight.double(), 1e-5),
        rtol=1e-6,
        atol=1e-6,
    )
    gate, up = torch.randn(2, 999, generator=random) * 20
    torch.testing.assert_close(
        fused._Gated.apply(gate, up).double(), F.silu(gate.double()) * up.double(), rtol=5e-6, atol=1e-6
    )
    hidden, head = torch.randn(33, 16, generator=random) * 9, torch.randn(501, 16, generator=random)
    targets = torch.randint(0, 501, (33,), generator=random)
    truth = F.cross_entropy(hidden.double() @ head.double().T, targets, reduction="none")
    torch.testing.assert_close(fused._CrossEntropy.apply(hidden, head, targets).double(), truth, rtol=1e-5, atol=1e-5)


def test_what_is_no_number_stays_none():
    x = torch.tensor([[1.0, float("nan"), 3.0]])
    assert fused._CrossEntropy.apply(x, torch.eye(3), torch.tensor([0])).isnan().all()
    assert fused._Norm.apply(x, torch.ones(3), 1e-5).isnan().all()
    assert fused._Gated.apply(x[0], x[0]).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_copy_in_bf16_leaves_gradients_in_fp32_on_the_weights(recompute, tied):
    """Two micro-batches: the sum of two gradients, each that of the bf16 model, whatever is computed again."""

    class Objective:
        def sums(self, model, tensors):
            return packed_loss(model, tensors)

    model = new_model(small_config(61, tie_embeddings=tied))
    compute = Compute(model, Objective(), torch.bfloat16, recompute=recompute)
    compute.refresh()
    expected = {name: torch.zeros_like(w) for name, w in model.named_parameters()}
    for seed in (0, 1):
        tensors = packed(2, 40, [9, 30], 61, seed)
        compute(tensors)["loss"].backward()
        compute.collect()
        alone = deepcopy(model).to(torch.bfloat16)
        fused.fuse(alone)
        packed_loss(alone, tensors)["loss"].backward()
        for name, weight in alone.named_parameters():
            expected[name] += weight.grad.float()
    for name, weight in model.named_parameters():
        assert weight.grad.dtype == torch.float32
        torch.testing.assert_close(weight.grad, expected[name], rtol=0, atol=1e-6 * float(expected[name].abs().max()))
