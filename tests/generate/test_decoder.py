"""The decoder against the transformer, and continuous batching against one answer at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor, TopKLogitsWarper

from l2.files.errors import UsageError
from l2.generate.decoder import Decoder
from l2.generate.engine import Sampling, generate, penalise, prompt_key, top
from l2.model.checkpoint import new_model
from l2.model.config import RopeScaling
from tests.conftest import small_config
from tests.model.test_transformer import spread, tokens

SHAPES = [
    {"n_kv_heads": 4},
    {"n_kv_heads": 2},
    {"n_kv_heads": 1},
    {"tie_embeddings": True},
    {"head_dim": 16},
    {"rope_scaling": RopeScaling("linear", 4.0)},
]


def lively(**changes: object):
    model = new_model(small_config(**changes))
    spread(model)
    return model


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rows", [1, 5])
def test_each_step_has_the_transformers_logits(shape, rows):
    """Rows of different lengths, prefilled, copied, moved about, and written token by token."""
    model, lengths = lively(**shape), torch.tensor([9, 3, 12, 1, 7])[:rows]
    whole = tokens(rows, 30)
    with torch.inference_mode():
        expected = model(whole)
        decoder = Decoder(model, rows, 30)
        prefilled, logits = decoder.prefill([row[:n].tolist() for row, n in zip(whole, lengths, strict=True)])
        torch.testing.assert_close(logits, expected[torch.arange(rows), lengths - 1], atol=1e-4, rtol=0)
        turned = torch.arange(rows - 1, -1, -1)
        for row in range(rows):
            decoder.fill(row, 1, prefilled, rows - 1 - row)
        whole, expected, lengths = whole[turned], expected[turned], lengths[turned]
        for step in range(12):
            logits = decoder.step(whole[torch.arange(rows), lengths].tolist(), lengths.numpy())
            torch.testing.assert_close(logits, expected[torch.arange(rows), lengths], atol=1e-4, rtol=0)
            lengths = lengths + 1
            if step == 5 and rows > 1:  # the last row takes the place of the second
                decoder.move(rows - 1, 1, int(lengths[-1]))
                keep = torch.tensor([0, rows - 1, *range(2, rows - 1)])
                whole, expected, lengths, rows = whole[keep], expected[keep], lengths[keep], rows - 1


def test_large_weights_are_not_copied(monkeypatch):
    monkeypatch.setattr("l2.generate.decoder.COPIED_BYTES", 0)
    test_each_step_has_the_transformers_logits({"n_kv_heads": 2}, 5)
    model = lively()
    layer, block = Decoder(model, 5, 30).layers[0], model.model.layers[0].self_attn
    taken = [product.weight.data_ptr() for product in layer.projections]
    assert taken == [part.weight.data_ptr() for part in (block.q_proj, block.k_proj, block.v_proj)]


def test_bfloat16_is_the_transformers_to_its_precision():
    model = lively().to(torch.bfloat16)
    whole = tokens(4, 20)
    with torch.inference_mode():
        expected = model(whole)
        decoder = Decoder(model, 4, 20)
        prefilled, _ = decoder.prefill(whole[:, :8].tolist())
        for row in range(4):
            decoder.fill(row, 1, prefilled, row)
        for at in range(8, 20):
            logits = decoder.step(whole[:, at].tolist(), np.full(4, at))
            assert (logits - expected[:, at]).abs().max() < 0.05 * expected[:, at].abs().max()


@pytest.mark.parametrize(("batch_size", "k"), [(1, 1), (3, 2), (4, 7), (64, 7)])
def test_rows_that_come_and_go_change_no_draw(batch_size, k):
    model = lively(max_seq_len=48)
    prompts = [tokens(1, 2 + 5 * i % 17, 370)[0].tolist() for i in range(9)]
    keys, sampling = [prompt_key(i) for i in range(9)], Sampling(1.3, 1.0, 20, seed=4)
    often = {"ended": lambda tokens: tokens[-1] % 7 == 0}
    alone = [generate(model, [p], [key], sampling, k=k, **often)[0] for p, key in zip(prompts, keys, strict=True)]
    heard: list[tuple[int, int, int]] = []
    together = generate(
        model, prompts, keys, sampling, k=k, batch_size=batch_size, on_token=lambda *t: heard.append(t), **often
    )
    assert [[a.tokens for a in some] for some in together] == [[a.tokens for a in some] for some in alone]
    assert len({len(a.tokens) for some in together for a in some}) > 3  # rows did leave at different times
    for i, some in enumerate(together):
        for sample, answer in enumerate(some):
            assert [token for which, of, token in heard if (which, of) == (i, sample)] == answer.tokens
            alone_logprobs = torch.tensor(alone[i][sample].logprobs)
            torch.testing.assert_close(torch.tensor(answer.logprobs), alone_logprobs, atol=1e-4, rtol=0)


def test_a_prompt_is_read_once_however_many_samples_it_has(monkeypatch):
    read: list[list[int]] = []
    prefill = Decoder.prefill
    monkeypatch.setattr(Decoder, "prefill", lambda self, prompts: read.extend(prompts) or prefill(self, prompts))
    prompts = [[1, 5], [1, 6, 7], [1, 8]]
    generate(lively(), prompts, [1, 2, 3], Sampling(max_new_tokens=6), k=10, batch_size=4)
    assert sorted(read) == sorted(prompts)


def test_memory_is_bounded_in_advance(monkeypatch):
    made: list[tuple[int, int]] = []
    init = Decoder.__init__
    monkeypatch.setattr(Decoder, "__init__", lambda self, m, rows, n: made.append((rows, n)) or init(self, m, rows, n))
    model, keys = lively(), list(range(20))
    prompts = [[1, 5 + i] for i in range(20)]
    plain = generate(model, prompts, keys, Sampling(max_new_tokens=10))
    less = generate(model, prompts, keys, Sampling(max_new_tokens=10), max_batch_tokens=40)
    assert made == [(20, 12), (3, 12)] and [a[0].tokens for a in plain] == [a[0].tokens for a in less]
    with pytest.raises(UsageError, match="one answer alone needs room for 12 tokens"):
        generate(model, prompts, keys, Sampling(max_new_tokens=10), max_batch_tokens=11)


def test_prompts_are_read_so_many_tokens_at_a_time(monkeypatch):
    monkeypatch.setattr("l2.generate.engine.PREFILL", 20)
    read: list[int] = []
    prefill = Decoder.prefill
    monkeypatch.setattr(Decoder, "prefill", lambda self, p: read.append(len(p) * max(map(len, p))) or prefill(self, p))
    model = lively()
    prompts = [tokens(1, n, 370)[0].tolist() for n in (3, 9, 30, 4, 4, 5, 9)]
    free = generate(model, prompts, range(7), Sampling(0.0, max_new_tokens=5))
    assert max(read) == 30 and sorted(read)[-2] <= 20 and len(read) < 7
    assert [a[0].tokens for a in free] == [
        generate(model, [p], [0], Sampling(0.0, max_new_tokens=5))[0][0].tokens for p in prompts
    ]


def test_settings_at_the_edge():
    with pytest.raises(UsageError, match="at least"):
        Sampling(max_new_tokens=0)
    for wrong in ({"temperature": math.inf}, {"top_p": math.nan}, {"repetition_penalty": math.inf}):
        with pytest.raises(UsageError, match="not a finite number"):
            Sampling(**wrong)
    cold, greedy = (generate(lively(), [[1, 5]], [0], Sampling(t, max_new_tokens=9)) for t in (1e-40, 0.0))
    assert cold[0][0].tokens == greedy[0][0].tokens


def test_top_k_and_the_penalty_are_transformers():
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(1)) * 3
    said = torch.randint(0, 50, (6, 9), generator=torch.Generator().manual_seed(2))
    assert torch.equal(top(logits, 7), TopKLogitsWarper(7)(said, logits))
    seen = torch.zeros(6, 50, dtype=torch.bool).scatter_(1, said, True)
    torch.testing.assert_close(penalise(logits, seen, 1.7), RepetitionPenaltyLogitsProcessor(1.7)(said, logits.clone()))


def test_the_penalty_sees_the_prompt_and_the_answer():
    """So strong a penalty lets a greedy model with positive logits say nothing twice."""
    model = lively(max_seq_len=200)
    ((free,),) = generate(model, [[1, 5, 9]], [0], Sampling(0.0, max_new_tokens=60), eos_id=-1)
    ((never,),) = generate(model, [[1, 5, 9]], [0], Sampling(0.0, max_new_tokens=60, repetition_penalty=1e6), eos_id=-1)
    assert len(set(free.tokens)) < 60 and len({1, 5, 9, *never.tokens}) == 63


def test_an_answer_ends_where_it_is_told_to():
    model = lively()
    ((free,),) = generate(model, [[1, 5]], [0], Sampling(0.0, max_new_tokens=20), eos_id=-1)
    ((told,),) = generate(
        model, [[1, 5]], [0], Sampling(0.0, max_new_tokens=20), eos_id=-1, ended=lambda tokens: len(tokens) == 4
    )
    assert told.tokens == free.tokens[:4] and told.finish == "stop" and free.finish == "length"
