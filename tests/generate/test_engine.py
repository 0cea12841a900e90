"""The engine against transformers, against the distribution it draws from, and against itself in other batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM

from l2.files.errors import UsageError
from l2.generate.engine import Sampling, draw, generate, prompt_key, uniform
from l2.generate.scoring import last_scores, loglikelihood, token_logprobs
from l2.model.checkpoint import new_model, save_model, scalar_from
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


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_greedy_text_is_transformers(kv_heads, tokenizer, tmp_path):
    model = new_model(small_config(tokenizer.vocab_size, n_kv_heads=kv_heads)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0)
    save_model(model, tmp_path, tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ours = generate(model, PROMPTS, KEYS, Sampling(temperature=0.0, max_new_tokens=20))
    for prompt, (answer,) in zip(PROMPTS, ours, strict=True):
        x = torch.tensor([prompt])
        out = theirs.generate(x, attention_mask=torch.ones_like(x), do_sample=False, max_new_tokens=20, pad_token_id=0)
        assert answer.tokens == out[0, len(prompt) :].tolist()


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


def test_scores_equal_transformers(tokenizer, tmp_path):
    model = new_model(small_config(tokenizer.vocab_size), 4).eval()
    save_model(model, tmp_path, tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    more = [[8, 9], [10], [11, 12, 13], [14], [15, 16], [17]]
    ours = loglikelihood(model, PROMPTS, more, batch_size=4)
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
