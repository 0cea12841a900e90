"""Schedule, order, optimizer, windows and the loop's invariants."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from l2.files.errors import BadInput, UsageError
from l2.files.jsonl import Record
from l2.model.checkpoint import new_model
from l2.tokens.shards import Shard, write_shards
from l2.train.loop import Settings, prepare, update
from l2.train.optim import adamw, take_step
from l2.train.order import step_items
from l2.train.presets import choose_preset, ffn_hidden
from l2.train.pretrain import CHUNK, Pretraining, token_losses
from l2.train.schedule import cosine, warmup_of
from tests.conftest import sentences, small_config


def test_cosine_meets_its_closed_form():
    steps, warmup = 100, 10
    rates = [cosine(s, steps, 2.0, warmup) for s in range(steps)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == pytest.approx(2.0) and rates[10] == pytest.approx(2.0)
    assert rates[-1] == pytest.approx(0.2)
    middle = warmup + (steps - 1 - warmup) / 2
    assert cosine(int(middle), steps, 2.0, warmup) == pytest.approx(
        2 * (0.1 + 0.45 * (1 + math.cos(math.pi * (int(middle) - warmup) / 89)))
    )
    assert warmup_of(1000, 0.03) == 30 and warmup_of(50, 0.03) == 5 and warmup_of(4, 0.03) == 2


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 5))
def test_every_item_once_an_epoch(items, batch, seed):
    seen = [i for step in range(3 * items) for i in step_items(step, batch, items, seed)]
    for epoch in range(len(seen) // items):
        assert sorted(seen[epoch * items : (epoch + 1) * items]) == list(range(items))
    total = 2 * items
    steps = -(-total // batch)
    cut = [i for step in range(steps) for i in step_items(step, batch, items, seed, total)]
    assert len(cut) == total


def test_adamw_takes_the_papers_step():
    """One step by hand: β (0.9, 0.95), ε 1e-5 outside the bias-corrected root, decay on matrices alone."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    before = [w.detach().clone() for w in model.parameters()]
    optimizer = adamw(model, weight_decay=0.1)
    model(torch.randn(5, 3)).square().sum().backward()
    grads = [w.grad.clone() for w in model.parameters()]
    norm = math.sqrt(sum(float(g.square().sum()) for g in grads))
    assert take_step(optimizer, model.parameters(), lr=0.01, clip=1.0) == pytest.approx(norm, rel=1e-5)
    for old, grad, new in zip(before, grads, model.parameters(), strict=True):
        g = grad * min(1.0, 1.0 / (norm + 1e-6))
        decay = 0.1 if old.dim() == 2 else 0.0
        expected = old * (1 - 0.01 * decay) - 0.01 * g / (g.abs() + 1e-5)
        torch.testing.assert_close(new.detach(), expected, atol=1e-6, rtol=0)


def test_ffn_width_is_the_references():
    assert (ffn_hidden(4096, 256), ffn_hidden(5120, 256), ffn_hidden(8192, 4096, 1.3)) == (11008, 13824, 28672)
    assert choose_preset(5_000_000, 4096, False) == "nano" and choose_preset(10**12, 32000, True) == "1b"


def test_chunked_loss_equals_plain_loss_and_gradient():
    model = new_model(small_config(vocab_size=50))
    hidden = torch.randn(CHUNK + 100, 32, requires_grad=True)
    targets = torch.randint(0, 50, (CHUNK + 100,))
    loss = token_losses(model, hidden, targets).sum()
    loss.backward()
    gradient = hidden.grad.clone()
    hidden.grad = None
    plain = torch.nn.functional.cross_entropy(model.head(hidden), targets, reduction="sum")
    plain.backward()
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient, hidden.grad, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def shards(tokenizer, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards")
    documents = (Record({"text": text}) for text in sentences(300))
    return [Shard(path) for path in write_shards(documents, tokenizer, out, "train", shard_tokens=1500)]


def test_each_token_is_a_target_once(shards, tokenizer):
    """Over one epoch the learned targets are exactly the tokens that are not BOS."""
    assert len(shards) > 1
    objective = Pretraining(shards, 16, batch=5, micro=2, seed=3, bos_id=tokenizer.bos_id)
    learned: list[int] = []
    for step in range(-(-len(objective.windows) // 5)):
        for micro in objective.batch(step):
            targets = micro.tensors["targets_BT"]
            learned += targets[targets >= 0].tolist()
            assert micro.count == int((targets >= 0).sum())
    surplus = 5 * -(-len(objective.windows) // 5) - len(objective.windows)
    everything = np.concatenate([np.asarray(s.tokens) for s in shards])
    expected = np.bincount(everything[everything != tokenizer.bos_id], minlength=380)
    found = np.bincount(learned, minlength=380)
    assert (found >= expected).all() and (found - expected).sum() <= surplus * 16


def test_windows_know_their_documents(shards, tokenizer):
    objective = Pretraining(shards, 16, batch=4, micro=4, seed=0, bos_id=tokenizer.bos_id)
    tensors = objective.batch(0)[0].tensors
    for row, positions in zip(tensors["tokens_BT"].tolist(), tensors["positions_BT"].tolist(), strict=True):
        for t in range(1, 16):
            assert positions[t] == (0 if row[t] == tokenizer.bos_id else positions[t - 1] + 1)


@pytest.mark.parametrize("micro", [1, 3, 8])
def test_micro_batches_change_memory_and_nothing_else(shards, tokenizer, micro):
    """Losses are sums divided by the global token count: any micro-batch gives the update of one batch of 8."""
    plan = Settings(steps=3, lr=1e-2, warmup=1)
    results = []
    for size in (8, micro):
        objective = Pretraining(shards, 16, batch=8, micro=size, seed=0, bos_id=tokenizer.bos_id)
        model = new_model(small_config(tokenizer.vocab_size))
        training = prepare(model, objective, plan)
        for _ in range(2):
            line = update(objective, training, plan)
        results.append((line["loss"], torch.cat([w.detach().flatten() for w in model.parameters()])))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    torch.testing.assert_close(results[0][1], results[1][1], atol=2e-6, rtol=0)


def test_gradients_that_are_no_numbers_leave_the_weights_alone():
    from l2.files.errors import L2Error

    model = torch.nn.Linear(2, 2)
    optimizer, before = adamw(model), model.weight.detach().clone()
    (model.weight.sum() * float("inf")).backward()
    with pytest.raises(L2Error, match="the norm of the gradients is inf"):
        take_step(optimizer, model.parameters(), 0.1)
    assert torch.equal(model.weight, before)


def test_too_few_tokens_are_told(shards, tokenizer, tmp_path):
    """For one batch, and for a validation set."""
    with pytest.raises(
        UsageError, match=r"hold \d+ windows of 16 tokens, fewer than one batch of 4,096; lower --batch"
    ):
        Pretraining(shards, 16, batch=4096, micro=2, seed=3, bos_id=tokenizer.bos_id)
    empty = tmp_path / "empty-00000.bin"
    empty.write_bytes(b"")
    with pytest.raises(BadInput, match=r"empty-00000.bin: found fewer than 2 tokens; expected tokens to validate on"):
        Pretraining(shards, 16, batch=4, micro=2, seed=3, bos_id=tokenizer.bos_id, held_out=[Shard(empty, True)])
