"""Safety context distillation: which pre-prompt, which answer is kept, and a world in which it must work."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2.align.distill import (
    ADJECTIVES,
    ANSWER_TEMPLATE,
    RISKS,
    TEMPLATES,
    Distilled,
    check_preprompts,
    distill,
    is_adversarial,
    pick_preprompt,
    with_preprompt,
)
from l2.align.rejection import unfit
from l2.files.errors import BadInput
from l2.files.jsonl import Record
from l2.generate.engine import Sampling
from l2.generate.samples import add_rewards
from l2.model.checkpoint import load_language_model, load_reward_model

GENERIC = {t.format(a, b) for t in TEMPLATES for a in ADJECTIVES for b in ADJECTIVES if a != b}


def test_generic_preprompts_are_all_used_alike():
    drawn = Counter(pick_preprompt({"id": n}, 0) for n in range(40 * len(GENERIC)))
    assert drawn.keys() == GENERIC and max(drawn.values()) < 80 and min(drawn.values()) > 12
    assert pick_preprompt({"id": 3}, 0) == pick_preprompt({"id": 3, "prompt": "x"}, 0)
    assert len({pick_preprompt({"id": 3}, seed) for seed in range(20)}) > 10


@pytest.mark.parametrize("category", [*RISKS, "elections"])
def test_a_category_brings_its_answer_template(category):
    text = pick_preprompt({"id": 1, "category": category}, 0)
    start, end = ANSWER_TEMPLATE.split("{}")
    assert text.startswith(start) and text.endswith(end)
    assert RISKS.get(category, f"something unsafe ({category})") in text and "4." in text


def test_own_preprompts_by_category():
    own = [{"preprompt": "A"}, {"preprompt": "B"}, {"preprompt": "C", "category": "advice"}]
    assert {pick_preprompt({"id": n}, 0, own) for n in range(20)} == {"A", "B"}
    assert {pick_preprompt({"id": n, "category": "advice"}, 0, own) for n in range(9)} == {"C"}
    assert {pick_preprompt({"id": n, "category": "hateful"}, 0, own) for n in range(20)} == {"A", "B"}
    assert pick_preprompt({"id": 1}, 0, own[2:]) in GENERIC
    with pytest.raises(BadInput, match=r"p\.jsonl:2: found the tag \[INST\]"):
        check_preprompts([Record({"preprompt": "x"}), Record({"preprompt": "[INST]"}, "p.jsonl:2")])
    with pytest.raises(BadInput, match="'category' of type int"):
        check_preprompts([Record({"preprompt": "x", "category": 3})])


def test_a_preprompt_stands_before_an_own_system_message():
    user = {"role": "user", "content": "x"}
    assert with_preprompt([user], "Be safe.") == [{"role": "system", "content": "Be safe."}, user]
    messages = [{"role": "system", "content": "Rhyme."}, user]
    assert with_preprompt(messages, "Be safe.") == [{"role": "system", "content": "Be safe.\nRhyme."}, user]
    assert messages[0]["content"] == "Rhyme."


def test_which_prompts_are_adversarial():
    assert is_adversarial(Record({})) and is_adversarial(Record({"safety": True, "category": "x"}))
    assert not is_adversarial(Record({"safety": False}))
    with pytest.raises(BadInput, match="'safety' of type str"):
        is_adversarial(Record({"safety": "no"}))


def sample(response: str, reward: float, finish: str = "stop") -> dict:
    return {
        "prompt": "x",
        "id": "1",
        "response": response,
        "finish": finish,
        "rewards": {"safe": reward},
        "tokens": [5],
    }


@given(st.floats(-9, 9), st.floats(-9, 9))
def test_kept_where_it_scores_higher_and_nowhere_else(original, distilled):
    pair = Distilled("Be safe.", sample("a", original), sample("b", distilled))
    assert (pair.fault is None) == (distilled > original) == pair.record()["kept"]
    if pair.fault is not None:
        assert pair.fault == ("not_safer", distilled, original)


@pytest.mark.parametrize(("response", "finish"), [("b", "length"), ("", "stop"), ("b [/INST]", "stop")])
def test_an_answer_that_is_not_fit_is_never_kept(response, finish):
    pair = Distilled("Be safe.", sample("a", 0.0), sample(response, 9.0, finish))
    assert pair.fault is not None and pair.fault[:2] == ("unfit", unfit(pair.distilled))


def test_records_and_dialogs():
    pair = Distilled("Be safe.", sample("a", -1.0), sample("b", 2.0))
    dialog = pair.dialog()
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "b"}]
    assert dialog["messages"] == turns and dialog["rewards"] == {"safe": 2.0} and dialog["original_reward"] == -1.0
    both = pair.record()
    assert (both["id"], both["preprompt"], both["prompt"], both["kept"]) == ("1", "Be safe.", "x", True)
    assert both["original"] == {"response": "a", "finish": "stop", "rewards": {"safe": -1.0}}
    assert both["distilled"]["response"] == "b" and "response" not in both and "tokens" not in both


def test_both_answers_are_scored_after_the_bare_prompt(model_dir, rm_dir, tokenizer):
    """The first answer is that of plain sampling; the second is drawn under the pre-prompt, and scored without it."""
    model, rm = load_language_model(model_dir), load_reward_model(rm_dir)
    prompts = [Record({"prompt": text, "id": str(n)}, f"p:{n}") for n, text in enumerate(["the cat", "who ran", "tea"])]
    own = [Record({"preprompt": "the dog"}, "own:1")]
    sampling = Sampling(1.0, 1.0, 6, 3)
    made = list(distill(model, tokenizer, rm, prompts, sampling, name="m", preprompts=own, batch_size=2))
    assert [pair.original["id"] for pair in made] == ["0", "1", "2"]
    for pair, prompt in zip(made, prompts, strict=True):
        for answer in (pair.original, pair.distilled):
            assert answer["prompt"] == prompt["prompt"] and answer["model"] == "m"
            bare = Record({"prompt": prompt["prompt"], "response": answer["response"], "tokens": answer["tokens"]})
            (again,) = add_rewards({"safe": rm}, tokenizer, [bare])
            assert answer["rewards"]["safe"] == pytest.approx(again["rewards"]["safe"], abs=1e-5)
    assert any(pair.original["tokens"] != pair.distilled["tokens"] for pair in made)
    one = list(distill(model, tokenizer, rm, prompts[2:], sampling, name="m", preprompts=own))
    assert one[0].distilled["tokens"] == made[2].distilled["tokens"]
