"""Self-BLEU against NLTK's, scores by hand, and the command on a model's samples."""

from __future__ import annotations

import math

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmds.app import main
from l2.eval.diversity import self_bleu
from l2.eval.survey import survey
from l2.files.errors import BadInput
from l2.files.jsonl import Record, write_records

# The mean of NLTK 3.10's sentence_bleu with method1 over each text and the others as its references.
NLTK = [
    (["The cat sat on the mat.", "The cat sat on the hill.", "A dog ran under the mat."], 0.534070292831),
    (["a b c d e f g"] * 3, 1.0),
    (["one", "two", "one"], 0.118551960669),
    (["yes, of course!", "Yes, of course.", "no"], 0.445826869984),
    (["x y", "x y z", "q"], 0.185502969143),
    (
        ["ran cat on who ran mat , hill dog . mat", "who the", "hill", "what", "hill what , under , what under"],
        0.110909730114,
    ),
    (["under . the", "on on"], 0.0),
]


@pytest.mark.parametrize(("texts", "value"), NLTK)
def test_self_bleu_is_nltks(texts, value):
    assert self_bleu(texts) == pytest.approx(value, abs=1e-11)


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=8).map(" ".join), min_size=2, max_size=5), st.randoms())
def test_self_bleu_lies_between_0_and_1_in_any_order(texts, random):
    value = self_bleu(texts)
    assert 0.0 <= value <= 1.0 + 1e-12
    random.shuffle(texts)
    assert math.isclose(self_bleu(texts), value, abs_tol=1e-12)


def test_texts_without_words():
    assert self_bleu(["", ""]) == 1.0
    assert self_bleu(["", "a b"]) == 0.0
    with pytest.raises(ValueError, match="one text"):
        self_bleu(["a"])


def sample(model: str, number: int, response: str, reward: float, **more: object) -> Record:
    fields = {"id": f"p{number}", "prompt": "q", "model": model, "response": response}
    return Record(fields | {"rewards": {"helpful": reward}} | more)


def test_groups_are_measured_by_hand():
    before = [sample("sft", i, "I can't help with that." if i < 5 else "Yes.", (i - 10) / 5) for i in range(20)]
    after = [sample("rlhf", i, "Yes.", 3.0 + (i - 10) / 5) for i in range(20)]
    first, second = survey([*before, *after], toxicity=lambda text: 0.7 * ("Yes" in text))
    sigmoid = [1 / (1 + math.exp(-(i - 10) / 5)) for i in range(20)]
    assert first.keys == {"model": "sft"}
    assert first.metrics["score/helpful"].value == pytest.approx(np.mean(sigmoid))
    assert first.metrics["score/helpful/p25"].value == pytest.approx(np.percentile(sigmoid, 25))
    assert first.metrics["low_tail/helpful"].value == 1 / 20
    assert second.metrics["low_tail/helpful"].value == 0.0
    assert (first.metrics["refused"].value, second.metrics["refused"].value) == (0.25, 0.0)
    assert (first.metrics["toxic"].value, second.metrics["toxic"].value) == (0.75, 1.0)
    assert "self_bleu" not in first.metrics, "one answer to each prompt"


def test_samples_without_ids_are_told_apart_by_their_prompts():
    texts = ["the cat sat on the mat", "rain falls on roofs", "rain falls on the roof", "dogs bark"]
    samples = [Record({"prompt": p, "id": None, "response": t}) for p, t in zip("abbc", texts, strict=True)]
    (group,) = survey(samples)
    assert group.metrics["self_bleu"].n == 1, "of one prompt alone there are two answers"
    assert group.metrics["self_bleu"].value == pytest.approx(self_bleu(texts[1:3]))
    assert group.metrics["refused"].n == 3


def test_answers_to_one_prompt_are_sampled_together():
    twice = [sample("m", i // 2, "Yes.", float(i // 2)) for i in range(20)]
    once = [sample("m", i, "Yes.", float(i)) for i in range(10)]
    (pairs,), (alone,) = survey(twice), survey(once)
    assert pairs.metrics["score/helpful"].stderr == pytest.approx(alone.metrics["score/helpful"].stderr)
    assert pairs.metrics["score/helpful"].n == 10


def test_a_reward_far_out_is_no_overflow():
    (group,) = survey([sample("m", i, "a", value) for i, value in enumerate([-1e6, 1e6])])
    assert group.metrics["score/helpful"].value == 0.5


def test_what_is_no_sample_is_named():
    for fields, message in (
        ({"rewards": 3}, "a number by each"),
        ({"rewards": {"a": "b"}}, "a number by each"),
        ({"id": [1]}, "a text or a number"),
    ):
        with pytest.raises(BadInput, match=message):
            list(survey([Record({"response": "x", **fields})]))
    with pytest.raises(BadInput, match="a prompt with its response"):
        list(survey([Record({"prompt": "x"}, "a.jsonl:1")]))


def test_the_command(tmp_path, capsysbinary):
    file = tmp_path / "samples.jsonl"
    kinds = {"factual": ["Paris is it."] * 3, "creative": ["red moons sing", "a blue fish flew by", "no rhyme here"]}
    samples = [
        sample("m", number, text, 0.0, category=kind, temperature=0.7)
        for number, (kind, texts) in enumerate(kinds.items())
        for text in texts
    ]
    write_records(file, samples)
    assert main(["survey", str(file)]) == 0
    out, err = capsysbinary.readouterr()
    rows = [orjson.loads(line) for line in out.splitlines()]
    alike = {row["category"]: row["value"] for row in rows if row["metric"] == "self_bleu"}
    assert alike["factual"] == pytest.approx(1.0)
    assert alike["creative"] < 0.1
    assert {row["temperature"] for row in rows} == {0.7}
    assert {row.get("toxicity_by") for row in rows if row["metric"] == "toxic"} == {"toxic_words.txt"}
    assert b"model m, category factual, temperature 0.7, 3 samples" in err
