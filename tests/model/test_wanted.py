"""The last layer for the places that are wanted alone, against all of them."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from l2.model.cache import KVCache
from l2.model.checkpoint import new_model
from l2.model.transformer import LanguageModel
from l2.train import fused
from tests.conftest import small_config

DTYPES = [torch.float32, torch.bfloat16]


def found(model: LanguageModel, rows: dict[str, torch.Tensor], alone: bool) -> dict[str, torch.Tensor]:
    """Hidden states at the wanted places, alone or with all, and the gradients of their product with `pull_AD`."""
    given, wanted_BT = (rows["tokens_BT"], rows["positions_BT"]), rows["wanted_BT"]
    hidden_AD = model.hidden(*given, wanted_BT=wanted_BT) if alone else model.hidden(*given)[wanted_BT]
    (hidden_AD.double() * rows["pull_AD"]).sum().backward()
    return {"hidden": hidden_AD.detach().double()} | {n: w.grad.double() for n, w in model.model.named_parameters()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("compiled", [False, True])
@settings(max_examples=10, deadline=None)
@given(
    shape=st.sampled_from([(4, 4, 8), (4, 2, 8), (2, 1, 16)]),
    T=st.sampled_from([1, 2, 31, 33, 100]),
    share=st.sampled_from([0.0, 0.03, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_hidden_states_and_gradients_are_those_of_all_places(compiled, dtype, shape, T, share, seed):
    """No farther from double precision than all places in the same dtype, twice over; rows may want nothing."""
    heads, kv_heads, channels = shape
    config = small_config(61, n_heads=heads, n_kv_heads=kv_heads, head_dim=channels, max_seq_len=T)
    model = new_model(config, seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2)  # attention chooses
    random = torch.Generator().manual_seed(seed)
    wanted = torch.rand(3, T, generator=random) < share
    wanted[seed % 3, seed % T] = True
    starts, at = torch.rand(3, T, generator=random) < 0.05, torch.arange(T)
    rows = {
        "tokens_BT": torch.randint(0, 61, (3, T), generator=random),
        "positions_BT": at - torch.where(starts, at, 0).cummax(1).values,
        "wanted_BT": wanted,
        "pull_AD": torch.randn(int(wanted.sum()), config.dim, generator=random, dtype=torch.float64),
    }
    truth = found(deepcopy(model).double(), rows, alone=False)
    errors = []
    for alone in (False, True):
        one = deepcopy(model).to(dtype)
        if compiled:
            fused.fuse(one)
        got = found(one, rows, alone)
        errors.append(max(float((got[n] - truth[n]).norm() / (truth[n].norm() + 1e-3)) for n in truth))
    assert errors[1] < 2 * errors[0] + (2e-6 if dtype == torch.float32 else 1e-2)


def test_with_a_cache_later_tokens_see_every_place():
    """A prompt is read for its last token alone, and an answer goes on from it."""
    config = small_config(61)
    model = new_model(config).eval()
    tokens = torch.randint(0, 61, (2, 12), generator=torch.Generator().manual_seed(0))
    at = torch.arange(12).expand(2, -1)
    with torch.no_grad():
        expected = model.hidden(tokens)
        cache = KVCache(config, 2, 12, torch.float32)
        last = model.hidden(tokens[:, :8], at[:, :8], cache=cache, wanted_BT=at[:, :8] == 7)
        rest = model.hidden(tokens[:, 8:], at[:, 8:], cache=cache)
    torch.testing.assert_close(last, expected[:, 7], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rest, expected[:, 8:], rtol=1e-5, atol=1e-5)


def test_a_model_without_layers_gives_what_is_wanted():
    model = new_model(small_config(61, n_layers=0))
    tokens, wanted = torch.arange(12).view(2, 6), torch.arange(12).view(2, 6) % 5 == 1
    assert torch.equal(model.hidden(tokens, wanted_BT=wanted), model.hidden(tokens)[wanted])
