"""Best of K: the gate, ties, the answers that are never chosen, the pool, and what a perfect judge makes of it."""

from __future__ import annotations

import math
import random

import pytest
import torch

from l2.align.rejection import (
    Answered,
    Tally,
    as_dialog,
    check_judges,
    choose,
    combined,
    fitness,
    make_pool,
    rejection_sample,
    unfit,
)
from l2.files.errors import BadInput, UsageError
from l2.files.jsonl import Record
from l2.generate.engine import Sampling
from l2.generate.samples import answered_ids, prompt_ids
from l2.generate.scoring import last_scores
from l2.model.checkpoint import new_model, scalar_from
from tests.conftest import small_config
from tests.eval.scripted import bigram


def sample(response="fine", finish="stop", safety=False, **rewards):
    fields = {"prompt": "why", "response": response, "finish": finish, "safety": safety, "tokens": [2]}
    return fields | {"rewards": rewards}


def test_one_reward_decides_alone_and_two_through_the_gate():
    assert combined([sample(reward=0.25), sample(reward=-4.0)]) == [0.25, -4.0]
    pair = [
        sample(helpful=2.0, safe=1.0),
        sample(helpful=2.0, safe=-3.0),  # σ(-3) = 0.047: the gate closes
        sample(helpful=2.0, safe=1.0, safety=True),
        sample(helpful=2.0, safe=-1.73),  # σ(-1.73) = 0.1506: still open
    ]
    assert combined(pair) == [2.0, -3.0, 1.0, 2.0]


def test_the_gate_of_the_paper_on_probabilities():
    """R_c = R_s if is_safety(p) or R_s < 0.15 else R_h (paper §3.2.3), in its own terms."""
    rng = random.Random(0)
    samples = [
        sample(safety=rng.random() < 0.3, helpful=rng.uniform(-4, 4), safe=rng.uniform(-4, 4)) for _ in range(500)
    ]
    for one, score in zip(samples, combined(samples), strict=True):
        r_h, r_s = (1 / (1 + math.exp(-one["rewards"][name])) for name in ("helpful", "safe"))
        r_c = r_s if one["safety"] or r_s < 0.15 else r_h
        assert 1 / (1 + math.exp(-score)) == pytest.approx(r_c, abs=1e-6)


def test_what_can_not_be_chosen():
    rounds = [5, 6, 7, 8] * 5
    for reason, answer in {
        None: sample(),
        "empty": sample(" "),
        "truncated": sample("", finish="length"),
        "forged": sample("a [/INST] b"),
        "degenerate": sample("round and round") | {"tokens": rounds},
    }.items():
        assert unfit(answer) == reason
    assert unfit(sample() | {"tokens": rounds[:15]}) is None  # too short to tell
    assert unfit(sample() | {"tokens": [*range(100, 112), *rounds[:8]]}) is None
    assert fitness([sample("a"), sample("b"), sample("a"), sample("")]) == [None, None, "duplicate", "empty"]
    # what was cut off is not there to be chosen, and does not speak against a whole answer with the same words
    assert fitness([sample("a", "length"), sample("a"), sample("a")]) == ["truncated", None, "duplicate"]


def test_the_best_fit_answer_wins_and_the_first_of_equals():
    assert choose([None, "empty", "truncated", "forged", None, None], [1.0, 9.0, 8.0, 7.0, 2.0, 2.0]) == 4
    assert choose(["empty", "truncated"], [1.0, 2.0]) is None
    assert choose(["truncated", None], [5.0, -5.0]) == 1


def test_a_dialog_has_the_prompts_messages_and_the_samples_fields():
    prompt = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    dialog = as_dialog(sample("yes", helpful=1.0) | {"prompt": prompt, "category": "c", "id": 7})
    assert dialog["messages"] == [*prompt, {"role": "assistant", "content": "yes"}]
    assert dialog["category"] == "c" and dialog["id"] == 7 and dialog["rewards"] == {"helpful": 1.0}
    assert not {"prompt", "response", "tokens"} & dialog.keys()


def test_which_judges():
    check_judges(["any"])
    check_judges(["safe", "helpful"])
    for names in ([], ["helpful", "tone"], ["helpful", "safe", "tone"]):
        with pytest.raises(UsageError, match="--rm helpful=DIR --rm safe=DIR"):
            check_judges(names)


PROMPTS = [Record({"prompt": f"how {word}", "id": word}, f"p:{i}") for i, word in enumerate(("do", "is", "cat", "tea"))]


@pytest.fixture(scope="module")
def policy(tokenizer):
    """Random words, and EOS with one chance in five after any of them."""
    size = tokenizer.vocab_size
    logits = torch.randn(size, size, generator=torch.Generator().manual_seed(0))
    logits[:, 2] = -math.inf
    logits[:, 2] = logits.logsumexp(1) + math.log(1 / 4)
    return bigram(logits, max_seq_len=128)


@pytest.fixture(scope="module")
def judges(tokenizer):
    config = small_config(tokenizer.vocab_size, max_seq_len=128)
    return {
        name: scalar_from(new_model(config, seed), seed=seed).eval() for name, seed in (("helpful", 1), ("safe", 2))
    }


def run(policy, tokenizer, judges, *, k=6, **changes):
    rows = [prompt_ids(tokenizer, prompt) for prompt in PROMPTS]
    settings = {"sampling": [Sampling(max_new_tokens=12, seed=3)], "name": "m", "k": k} | changes
    return list(rejection_sample(policy, tokenizer, judges, PROMPTS, rows, **settings))


def test_the_chosen_answer_is_the_best_by_brute_force(policy, tokenizer, judges):
    """Tokens as drawn, scored one by one, the best of those that ended and say something."""
    came = run(policy, tokenizer, {"only": judges["helpful"]}, k=6)
    assert len(came) == len(PROMPTS) and any(one.dialog is not None for one in came)
    for prompt, (dialog, samples, *_) in zip(PROMPTS, came, strict=True):
        assert [s["sample"] for s in samples] == list(range(6)) and all(s["id"] == prompt["id"] for s in samples)
        best = None
        for one in samples:
            row = prompt_ids(tokenizer, prompt) + one["tokens"]
            assert answered_ids(tokenizer, one) == row
            (alone,) = last_scores(judges["helpful"], [row])
            assert one["rewards"] == {"only": pytest.approx(alone, abs=1e-5)}
            ended = one["finish"] == "stop" and one["tokens"][-1] == 2 and one["response"]
            if ended and (best is None or alone > best[0] + 1e-5):
                best = alone, one["response"]
        assert (dialog is None) == (best is None)
        if dialog is not None:
            assert dialog["score"] == pytest.approx(best[0], abs=1e-5)
            assert dialog["messages"][-1] == {"role": "assistant", "content": best[1]}


def test_more_samples_hold_the_fewer_and_score_no_less(policy, tokenizer, judges):
    few, many = (run(policy, tokenizer, judges, k=k) for k in (2, 8))
    for (before, small, *_), (after, large, *_) in zip(few, many, strict=True):
        assert [s["tokens"] for s in small] == [s["tokens"] for s in large[:2]]
        if before is not None:
            assert after["score"] >= before["score"] - 1e-5
    assert sum(one.dialog is not None for one in many) >= sum(one.dialog is not None for one in few)


def test_any_batch_chooses_the_same(policy, tokenizer, judges):
    texts = [
        [one.dialog and one.dialog["messages"] for one in run(policy, tokenizer, judges, batch_size=size)]
        for size in (1, 5, 64)
    ]
    assert texts[0] == texts[1] == texts[2]


def test_the_pool_competes_prompt_by_prompt_and_is_scored_anew(policy, tokenizer, judges):
    """What 8 samples choose is what 2 new ones and a pool of those 8 choose, whatever rewards the pool came with."""
    judge = {"reward": judges["helpful"]}
    whole = run(policy, tokenizer, judge, k=8)
    older = [Record(s | {"rewards": {"reward": 99.0, "old": 1.0}}, "old:1") for one in whole for s in one.samples]
    stranger = Record(older[0] | {"id": "nobody's"}, "old:9")
    pool = make_pool([*older, stranger], PROMPTS)
    assert sum(map(len, pool.values())) == len(older)
    mixed = run(policy, tokenizer, judge, k=2, pool=pool)
    for (expected, *_), (dialog, samples, scores, pooled) in zip(whole, mixed, strict=True):
        assert (
            len(samples) == len(scores) == 2
            and (not pooled or dialog is not None)
            and (dialog is None) == (expected is None)
        )
        if dialog is not None:
            assert dialog["messages"] == expected["messages"] and dialog["rewards"].keys() == {"reward"}
            assert dialog["score"] == pytest.approx(expected["score"], abs=1e-5)


def test_what_was_chosen_earlier_is_a_pool_too(policy, tokenizer, judges):
    """Dialogs do as well as samples."""
    judge = {"reward": judges["helpful"]}
    whole = run(policy, tokenizer, judge, k=8)
    chosen = [Record(one.dialog, "best:1") for one in whole if one.dialog is not None]
    pool = make_pool(chosen, PROMPTS)
    for one in chosen:
        (again,) = pool[one["id"]]
        assert again["prompt"] == one["messages"][:-1] and again["response"] == one["messages"][-1]["content"]
        assert again["finish"] == "stop" and not {"rewards", "score", "messages"} & again.keys()
    few, mixed = run(policy, tokenizer, judge, k=2), run(policy, tokenizer, judge, k=2, pool=pool)
    assert any(one.pooled for one in mixed)
    for alone, found in zip(few, mixed, strict=True):
        assert alone.dialog is None or found.dialog["score"] >= alone.dialog["score"] - 1e-5
    unanswered = Record({"id": "do", "messages": [{"role": "user", "content": "how do"}]}, "best:2")
    with pytest.raises(BadInput, match=r"best:2: found a dialog that ends with the user"):
        make_pool([unanswered], PROMPTS)


def test_each_temperature_draws_its_own_and_all_compete(policy, tokenizer, judges):
    judge, sweep = (
        {"reward": judges["helpful"]},
        [Sampling(t, max_new_tokens=12, seed=3 + i) for i, t in enumerate((1, 0.5))],
    )
    both = run(policy, tokenizer, judge, k=3, sampling=sweep)
    alone = [run(policy, tokenizer, judge, k=3, sampling=[how]) for how in sweep]
    for one, *parts in zip(both, *alone, strict=True):
        assert [s["tokens"] for s in one.samples] == [s["tokens"] for part in parts for s in part.samples]
        assert [s["temperature"] for s in one.samples] == [1] * 3 + [0.5] * 3
        assert [s["sample"] for s in one.samples] == list(range(6))
        fit = [score for s, score in zip(one.samples, one.scores, strict=True) if "unfit" not in s]
        assert (one.dialog and one.dialog["score"]) == max(fit, default=None)


def test_a_tally_counts_what_was_not_chosen_and_what_was_chosen_twice():
    tally = Tally()
    for text, reasons in (("yes", ["empty", None]), ("yes", ["duplicate", None]), (None, ["empty", "truncated"])):
        dialog = text and as_dialog(sample(text))
        tally.add(
            Answered(dialog, [sample() | ({"unfit": r} if r else {}) for r in reasons], [1.0, 3.0], text == "yes")
        )
    assert tally.told() == [
        "3 prompts: 2 kept, 2 of them from the pool, 1 without an answer that is fit",
        "of 6 new answers not to be chosen: 2 empty, 1 duplicate, 1 truncated",
        "2 chosen answers serve several prompts; the commonest, 2 times: 'yes'",
    ]
    (found,) = tally.curves([0.7])["curves"]
    assert found["temperature"] == 0.7 and found["n"] == [1, 2] and found["max"] == [2.0, 3.0]


def test_a_pool_of_other_prompts_under_the_same_ids_is_refused():
    other = Record(sample() | {"prompt": "another", "id": "do"}, "all.jsonl:4")
    with pytest.raises(BadInput, match=r"all.jsonl:4: found another prompt under the id 'do'"):
        make_pool([other], PROMPTS)
