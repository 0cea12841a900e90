"""The engine against transformers, against the distribution it draws from, and against itself in other batches."""

from __future__ import annotations

from operator import add
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from transformers import AutoModelForCausalLM

from l2.files.errors import L2Error, UsageError
from l2.generate import scoring
from l2.generate.engine import Sampling, draw, generate, nucleus, prompt_key, uniform
from l2.generate.scoring import chosen_logprobs, last_scores, loglikelihood
from l2.model.checkpoint import new_model, save_model, scalar_from
from l2.model.transformer import LanguageModel
from l2.train.order import mixed
from tests.conftest import small_config

MASK = 2**64 - 1


def scalar_uniform(seed: int, *parts: int) -> float:
    """`uniform` again, in Python's own integers."""

    def mix(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
        return x ^ (x >> 31)

    state = seed & MASK
    for part in parts:
        state = mix((state + 0x9E3779B97F4A7C15) & MASK) ^ part
    return (mix((state + 0x9E3779B97F4A7C15) & MASK) >> 11) / 2**53


def lively(seed: int = 0, **shape: object):
    """A model whose distributions are neither flat nor certain, so that draws differ and EOS comes now and then."""
    model = new_model(small_config(60, **shape), seed).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(8.0)
    return model


PROMPTS = [[1, 5, 9], [1, 7], [1, 11, 13, 17, 19], [1, 23, 29, 31], [1, 40], [1, 41, 42]]
KEYS = [prompt_key(i) for i in range(len(PROMPTS))]


def test_uniform_is_its_definition_and_uniform():
    keys = np.array([prompt_key(i) for i in range(4000)], dtype=np.uint64)
    samples, positions = np.arange(4000) % 7, np.arange(4000) // 7
    drawn = uniform(3, keys, samples, positions)
    for i in range(0, 4000, 97):
        assert drawn[i] == scalar_uniform(3, int(keys[i]), int(samples[i]), int(positions[i]))
    assert stats.kstest(drawn, "uniform").pvalue > 1e-3
    neighbours = uniform(3, np.full(4000, 5, np.uint64), np.zeros(4000, int), np.arange(4000))
    assert abs(np.corrcoef(neighbours[:-1], neighbours[1:])[0, 1]) < 0.06


def test_mixing_is_splitmix64():
    """The first numbers of the published generator from seed 0 (Vigna's splitmix64.c)."""
    counter = np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert mixed(counter).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@pytest.mark.parametrize("part", ["seed", "key", "sample", "position"])
def test_each_part_of_the_counter_matters_and_draws_of_neighbours_are_independent(part):
    def drawn(n: int) -> np.ndarray:
        at = {"seed": 1, "key": 2, "sample": 3, "position": 4} | {part: n}
        columns = {name: np.full(5000, at[name], np.uint64) for name in ("key", "sample", "position")}
        columns["sample" if part == "position" else "position"] = np.arange(5000, dtype=np.uint64)
        return uniform(at["seed"], *columns.values())

    a, b = drawn(10), drawn(11)
    assert not (a == b).any() and abs(np.corrcoef(a, b)[0, 1]) < 0.06
    table = np.histogram2d(a, b, bins=8, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(table.ravel()).pvalue > 1e-4


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature):
    logits = torch.tensor([0.3, -1.0, 2.0, 0.0, 1.2])
    u = torch.from_numpy(uniform(0, np.arange(20_000).astype(np.uint64), np.zeros(20_000), np.zeros(20_000)))
    tokens, logprobs = draw(logits.expand(20_000, 5), u, temperature, 1.0)
    expected = (logits / temperature).softmax(0)
    assert (
        stats.chisquare(torch.bincount(tokens, minlength=5), 20_000 * expected.double().numpy(), sum_check=False).pvalue
        > 1e-3
    )
    torch.testing.assert_close(logprobs, expected.log()[tokens], atol=1e-5, rtol=0)


def test_top_p_keeps_what_its_rule_keeps():
    """A token stays while the mass of the likelier ones is at most p, so the first always does."""
    logits = torch.tensor([[0.5, 0.2, 0.15, 0.1, 0.05]]).log().expand(999, 5)
    u = torch.arange(999) / 999
    for p, kept in ((0.0, 1), (0.49, 1), (0.51, 2), (0.84, 3), (0.951, 5)):
        tokens, logprobs = draw(logits, u, 1.0, p)
        assert sorted(set(tokens.tolist())) == list(range(kept))
        share = logits[0, :kept].exp() / logits[0, :kept].exp().sum()
        torch.testing.assert_close(logprobs, share.log()[tokens], atol=1e-5, rtol=0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-4, 4), min_size=2, max_size=30, unique=True), st.floats(0, 0.999))
def test_the_nucleus_is_that_of_metas_code(logits, p):
    """paper.md §11, token by token: sort, keep while the cumulative mass without its own is at most p."""
    probs = torch.tensor([logits]).softmax(-1)
    order = sorted(range(len(logits)), key=lambda i: -float(probs[0, i]))
    before, kept = 0.0, set()
    for i in order:
        if abs(before - p) < 1e-6 or sum(float(q) == float(probs[0, i]) for q in probs[0]) > 1:
            return  # a tie or a boundary within rounding: the two may differ there
        if before <= p:
            kept.add(i)
        before += float(probs[0, i])
    cut = nucleus(probs, p)[0]
    assert {i for i in range(len(logits)) if cut[i] > 0} == kept
    assert all(cut[i] == probs[0, i] for i in kept)


def test_equal_tokens_stay_or_go_together():
    cut = nucleus(torch.tensor([[0.4, 0.2, 0.2, 0.2], [0.25, 0.25, 0.25, 0.25]]), 0.45)
    torch.testing.assert_close(cut, torch.tensor([[0.4, 0.2, 0.2, 0.2], [0.25, 0.25, 0.25, 0.25]]))
    at_most = nucleus(torch.tensor([[0.5, 0.25, 0.125, 0.125]]), 0.5)  # 0.5 before the second: not more than 0.5
    assert (at_most > 0).tolist() == [[True, True, False, False]]
    assert (nucleus(torch.tensor([[0.5, 0.2, 0.2, 0.1]]), 0.8) > 0).tolist() == [[True, True, True, False]]


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_first_tokens_over_many_prompts_follow_the_model(top_p):
    """The whole engine: one prompt under 6,000 keys and two samples each, against the softmax of a forward pass."""
    model = lively(3)
    prompt = [1, 5, 9]
    with torch.no_grad():
        probs = model(torch.tensor([prompt]))[0, -1].softmax(-1)
    expected = nucleus(probs[None], top_p)[0].double()
    expected /= expected.sum()
    keys = [prompt_key(f"p{i}") for i in range(6000)]
    sampling = Sampling(top_p=top_p, max_new_tokens=1, seed=9)
    answers = generate(model, [prompt] * 6000, keys, sampling, k=2, batch_size=4000)
    for sample in (0, 1):
        counts = torch.bincount(torch.tensor([a[sample].tokens[0] for a in answers]), minlength=60)
        assert counts[expected == 0].sum() == 0
        often = expected * 6000 >= 5
        rest = [float(counts[~often].sum()), float(expected[~often].sum() * 6000)]
        seen = [*counts[often].tolist(), rest[0]] if rest[1] > 0 else counts[often].tolist()
        wanted = [*(expected[often] * 6000).tolist(), rest[1]] if rest[1] > 0 else (expected[often] * 6000).tolist()
        assert stats.chisquare(seen, wanted, sum_check=False).pvalue > 1e-4
    pairs = np.corrcoef([a[0].tokens[0] for a in answers], [a[1].tokens[0] for a in answers])
    assert abs(pairs[0, 1]) < 0.05


@pytest.mark.parametrize("shape", [{"n_kv_heads": 4}, {"n_kv_heads": 2}, {"n_kv_heads": 1}, {"tie_embeddings": True}])
def test_greedy_text_is_transformers(shape, tokenizer, tmp_path):
    """200 tokens, each the likeliest by transformers after those before it, which is its greedy text."""
    model = new_model(small_config(tokenizer.vocab_size, max_seq_len=256, **shape)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0)
    save_model(model, tmp_path, tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ours = generate(model, PROMPTS, KEYS, Sampling(temperature=0.0, max_new_tokens=200), eos_id=-1)
    for prompt, (answer,) in zip(PROMPTS, ours, strict=True):
        assert len(answer.tokens) == 200
        with torch.no_grad():
            logits = theirs(torch.tensor([prompt + answer.tokens])).logits[0, len(prompt) - 1 : -1]
        assert answer.tokens == logits.argmax(-1).tolist()


def test_a_draw_depends_on_seed_prompt_sample_and_position_alone():
    model = lively()
    sampling = Sampling(temperature=1.0, max_new_tokens=24, seed=5)
    all_at_once = generate(model, PROMPTS, KEYS, sampling, k=4, batch_size=64)
    assert {answer.finish for answers in all_at_once for answer in answers} == {"stop", "length"}
    for batch_size in (1, 5):
        one = generate(model, PROMPTS, KEYS, sampling, k=4, batch_size=batch_size)
        assert [[a.tokens for a in b] for b in one] == [[a.tokens for a in b] for b in all_at_once]
    few = generate(model, PROMPTS[::-1], KEYS[::-1], sampling, k=2)[::-1]
    assert [[a.tokens for a in b] for b in few] == [[a.tokens for a in b[:2]] for b in all_at_once]
    other = generate(model, PROMPTS, KEYS, Sampling(max_new_tokens=24, seed=6), k=1)
    assert [a[0].tokens for a in other] != [a[0].tokens for a in all_at_once]


def token_logprobs(model: LanguageModel, tokens_BT: torch.Tensor) -> torch.Tensor:
    """Log-probability [B, T - 1] of every token but the first, by the transformer and torch alone."""
    return model(tokens_BT)[:, :-1].log_softmax(-1).gather(2, tokens_BT[:, 1:, None])[..., 0]


def test_what_was_sampled_is_what_is_scored():
    """Sampler = scorer: the log-probabilities of the draw are those of a forward pass over the whole row."""
    model = lively(1)
    answers = generate(model, PROMPTS, KEYS, Sampling(max_new_tokens=16), k=3)
    for prompt, completions in zip(PROMPTS, answers, strict=True):
        for answer in completions:
            scored = token_logprobs(model, torch.tensor([prompt + answer.tokens]))[0, len(prompt) - 1 :]
            torch.testing.assert_close(torch.tensor(answer.logprobs), scored.detach(), atol=1e-4, rtol=0)
            assert (answer.tokens[-1] == 2) == (answer.finish == "stop") and 2 not in answer.tokens[:-1]


def test_answers_end_with_the_context_and_full_prompts_are_refused():
    model = lively()
    ((answer,),) = generate(model, [[1] + [5] * 61], [1], Sampling(temperature=0.0, max_new_tokens=9), eos_id=-1)
    assert len(answer.tokens) == 2 and answer.finish == "length"
    with pytest.raises(UsageError, match="64 tokens leaves no room in the model's context of 64"):
        generate(model, [[1] * 64], [0], Sampling(max_new_tokens=3))


def test_contexts_of_different_lengths_in_one_batch_end_each_at_its_own():
    """A short prompt goes on beside one that has reached the end of the context."""
    model = lively()
    prompts = [[1] + [7] * n for n in (2, 3, 4, 5, 40, 62)]  # one of six ended: not yet worth a copy of the cache
    sampling = Sampling(max_new_tokens=30, seed=2)
    together = generate(model, prompts, range(1, 7), sampling, eos_id=-1, batch_size=6)
    assert [len(answer.tokens) for (answer,) in together] == [30, 30, 30, 30, 23, 1]
    alone = [generate(model, [p], [i], sampling, eos_id=-1)[0] for i, p in enumerate(prompts, 1)]
    assert [[a.tokens for a in answers] for answers in alone] == [[a.tokens for a in answers] for answers in together]


def test_broken_weights_and_empty_prompts_are_told():
    model = lively()
    assert generate(model, [], [], Sampling()) == []
    with pytest.raises(UsageError, match="no tokens, not even BOS"):
        generate(model, [[1], []], [0, 1], Sampling(max_new_tokens=3))
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    for sampling in (Sampling(max_new_tokens=3), Sampling(top_p=0.5), Sampling(temperature=0.0)):
        with pytest.raises(L2Error, match="weights are broken"):
            generate(model, [[1, 5]], [0], sampling)


def test_the_model_may_be_trained_after_it_has_written():
    """Nothing of inference mode stays behind, and scoring gives gradients."""
    model = lively().train()
    ((answer,),) = generate(model, [[1, 5]], [0], Sampling(max_new_tokens=4))
    assert model.training and not torch.is_inference_mode_enabled()
    token_logprobs(model, torch.tensor([[1, 5, *answer.tokens]])).sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


def test_chunks_of_rows_change_nothing(monkeypatch):
    model = lively()
    rows = torch.randint(3, 60, (4, 9), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(scoring, "CHUNK", 5)
    with torch.no_grad():
        hidden = model.hidden(rows)[:, :-1].flatten(0, 1)
        found = chosen_logprobs(model, hidden, rows[:, 1:].flatten())
        torch.testing.assert_close(found, token_logprobs(model, rows).flatten(), atol=1e-5, rtol=0)


def listen(monkeypatch) -> list[int]:
    """How many tokens each pass through the model reads, from now on."""
    read: list[int] = []
    hidden = LanguageModel.hidden
    spy = lambda self, tokens, *rest, **more: read.append(tokens.numel()) or hidden(self, tokens, *rest, **more)  # noqa: E731
    monkeypatch.setattr(LanguageModel, "hidden", spy)
    return read


@pytest.mark.parametrize("path", ["trees", "padded"])
@pytest.mark.parametrize("head", [0, 1, 9, 40])
def test_shared_prefixes_change_no_score(head, path, monkeypatch):
    """Few-shot headers, contexts of any length with several choices, empty continuations, contexts that come again."""
    model = new_model(small_config(max_seq_len=128), 4).eval()
    if path == "padded":
        monkeypatch.setattr(scoring, "kernels_of", lambda model: None)
    elif scoring.kernels_of(model) is None:
        pytest.skip("no C++ compiler")
    random = Random(head)
    header = [random.randrange(3, 300) for _ in range(head)]
    asked = [[*header, *(random.randrange(3, 300) for _ in range(n))] for n in (1, 1, 5, 2, 9, 5)]
    contexts = [context for context in [*asked, asked[2]] for _ in range(3)]
    more = [[random.randrange(3, 300) for _ in range(random.choice([0, 1, 2, 6, 20]))] for _ in contexts]
    with torch.no_grad():
        plain = [
            float(token_logprobs(model, torch.tensor([a + b]))[0, len(a) - 1 :].double().sum())
            for a, b in zip(contexts, more, strict=True)
        ]
    read = listen(monkeypatch)
    assert loglikelihood(model, contexts, more) == pytest.approx(plain, abs=5e-5)
    if head >= 9:  # below, there is little to share
        assert sum(read) < 0.8 * len(contexts) * max(map(len, map(add, contexts, more)))
    monkeypatch.setattr(scoring, "PACKED", 50)
    monkeypatch.setattr(scoring, "TOGETHER", 200)
    assert loglikelihood(model, contexts, more) == pytest.approx(plain, abs=5e-5)


def test_contexts_that_share_nothing_are_read_in_one_go(monkeypatch):
    model = new_model(small_config(), 4).eval()
    monkeypatch.setattr(scoring, "kernels_of", lambda model: None)
    read = listen(monkeypatch)
    loglikelihood(model, [[1, 5, 7], [1, 6, 7]], [[3], [4]])
    assert read == [6]
    assert loglikelihood(model, [], []) == []


def test_scores_equal_transformers(tokenizer, tmp_path):
    model = new_model(small_config(tokenizer.vocab_size), 4).eval()
    save_model(model, tmp_path, tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    more = [[8, 9], [10], [11, 12, 13], [14], [15, 16], [17]]
    ours = loglikelihood(model, PROMPTS, more)
    for context, continuation, value in zip(PROMPTS, more, ours, strict=True):
        with torch.no_grad():
            log_probs = theirs(torch.tensor([context + continuation])).logits[0].log_softmax(-1)
        at = range(len(context) - 1, len(context) + len(continuation) - 1)
        assert value == pytest.approx(
            sum(float(log_probs[t, i]) for t, i in zip(at, continuation, strict=True)), abs=1e-4
        )
    rm = scalar_from(model).eval()
    with torch.no_grad():
        alone = [float(rm(torch.tensor([row]))[0, -1]) for row in PROMPTS]
    assert last_scores(rm, PROMPTS, batch_size=4) == pytest.approx(alone, abs=1e-5)
