"""Dated facts: what is said on which day, and whether a model's answer follows the date that is stated."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2.align.temporal import (
    FARTHEST,
    NOT_YET,
    answer_on,
    asked_on,
    dated_dialogs,
    event_date,
    shifted,
    tells,
    years_between,
)
from l2.eval.metrics import mean
from l2.eval.subject import Subject
from l2.eval.tasks import kind_of, run_task
from l2.files.errors import BadInput
from l2.files.jsonl import Record
from l2.generate.engine import Sampling
from tests.eval.scripted import saying, task

DAY = datetime.date
OBAMA = {
    "prompt": "How long ago did Barack Obama become president?",
    "answer": "About {years} years ago.",
    "date": "2009-01-20",
    "before": "He is not president.",
}
MOON = {"prompt": "Who walked on the moon first?", "answer": "Neil Armstrong", "date": "1969-07-20", "id": "moon"}


def test_the_answer_follows_the_date():
    fact = Record(OBAMA)
    assert answer_on(fact, DAY(2021, 1, 1)) == "About 11 years ago." and tells(fact, "about 11 YEARS ago.")
    assert answer_on(fact, DAY(2021, 1, 20)) == "About 12 years ago." and not tells(fact, "Two years ago.")
    assert answer_on(fact, DAY(2009, 1, 20)) == "About 0 years ago."
    assert answer_on(fact, DAY(2009, 1, 19)) == "He is not president."
    assert answer_on(Record(MOON), DAY(1969, 1, 1)) == NOT_YET
    assert asked_on(fact, DAY(2023, 1, 2))[0] == {"role": "system", "content": "Date: 01/02/2023"}
    assert asked_on(fact, DAY(44, 3, 15))[0] == {"role": "system", "content": "Date: 03/15/0044"}


@given(st.dates(), st.dates())
def test_whole_years(event, day):
    years = years_between(event, day)
    birthday = (event.month, event.day)
    assert (event.year + years, *birthday) <= (day.year, day.month, day.day) < (event.year + years + 1, *birthday)


@given(st.dates(), st.integers(-FARTHEST, FARTHEST))
def test_days_stay_in_the_calendar(day, days):
    moved = shifted(day, days)
    assert (
        moved == day + datetime.timedelta(days)
        if DAY.min.toordinal() <= day.toordinal() + days <= DAY.max.toordinal()
        else moved in (DAY.min, DAY.max)
    )


def test_two_dialogs_a_fact_on_days_that_depend_on_seed_and_id():
    facts = [Record(MOON | {"id": n}, f"f:{n}") for n in range(200)]
    made = list(dated_dialogs(facts, 0))
    assert len(made) == 400 and made == list(dated_dialogs(facts, 0)) != list(dated_dialogs(facts, 1))
    for after, before in zip(made[::2], made[1::2], strict=True):
        assert before["query_date"] < before["event_date"] == after["event_date"] == "1969-07-20" < after["query_date"]
        assert after["messages"][-1]["content"] == "Neil Armstrong" and before["messages"][-1]["content"] == NOT_YET
        day = DAY.fromisoformat(after["query_date"])
        assert after["messages"][0]["content"] == f"Date: {day:%m/%d/%Y}"
    distances = [(DAY.fromisoformat(one["query_date"]) - DAY(1969, 7, 20)).days for one in made]
    assert all(1 <= abs(days) <= FARTHEST for days in distances)
    assert abs(sum(map(abs, distances)) / 400 - FARTHEST / 2) < FARTHEST / 8


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"date": "20.7.1969"}, "date '20.7.1969'; expected a date such as"),
        ({"date": 1969}, "'date' of type int"),
        ({"answer": None}, "'answer' of type NoneType"),
        ({"before": 3}, "'before' of type int"),
        ({"prompt": "x [INST]"}, r"the tag \[INST\]"),
    ],
)
def test_bad_facts_are_told_by_line(change, found):
    with pytest.raises(BadInput, match=f"f:7: found {found}"):
        list(dated_dialogs([Record(MOON | change, "f:7")], 0))


def test_a_model_that_knows_and_does_not_mind_the_date(tokenizer):
    """It tells the fact on both days: right after the event, wrong before it."""
    fact = {"prompt": "who ran x", "answer": "the Cat", "date": "2001-02-03", "id": "a"}
    other = fact | {"answer": "tea", "id": "b"}
    assert kind_of(Record(fact)) == "dated facts"
    model = saying(tokenizer, "the cat", max_seq_len=200)
    items, metrics = run_task(Subject("m", model, tokenizer, Sampling(0.0, max_new_tokens=9)), task(fact, other))
    assert [(item["id"], item["side"], item["right"]) for item in items] == [
        ("a", "after", True), ("a", "before", False), ("b", "after", False), ("b", "before", True)
    ]  # fmt: skip
    assert [item["stated"] for item in items[:2]] == ["2002-02-03", "2000-02-04"]
    expected = {"both": mean([False, False]), "told_after": mean([True, False]), "silent_before": mean([False, True])}
    assert metrics == expected
    assert event_date(Record(fact)) == DAY(2001, 2, 3)
