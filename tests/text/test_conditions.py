"""Conditions hold where Python's own comparison of the same two values does, and anything else is refused."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l2.files.errors import UsageError
from l2.files.ledger import Ledger
from l2.text.conditions import OPERATORS, look_up, parse_condition
from l2.text.filtering import filter_documents
from l2.text.pipeline import FilterSettings
from l2.text.quality import RULE_SETS, Page, rules

NUMBERS = st.integers(-3, 3) | st.floats(-2, 2) | st.sampled_from([1e-300, 2**60, -1e300])
VALUES = NUMBERS | st.sampled_from(["", "en", "fr", 'say "<=" \\', "é\n", "0"])
FOUND = VALUES | st.none() | st.booleans() | st.lists(st.integers(), max_size=1) | st.just({"deeper": 1})


class Rows(list):
    """A writer into a list."""

    def write(self, record):
        self.append(dict(record))


def run(path, **changes):
    """(kept documents, ledger rows, report) of the documents in `path`."""
    kept, rows = Rows(), Rows()
    report = filter_documents([path], kept, Ledger(rows), FilterSettings(**{"quality": (), "dedup": "none"} | changes))
    return kept, rows, report


def truth(found, relation: str, value) -> bool:
    """The same by Python's eval, for two numbers or two strings; anything else does not hold."""
    kinds = [str if isinstance(x, str) else float if type(x) in (int, float) else None for x in (found, value)]
    return kinds[0] is kinds[1] is not None and eval(f"found {relation} value", {"found": found, "value": value})


@given(FOUND, st.sampled_from(list(OPERATORS)), VALUES, st.sampled_from(["", " ", "  \t"]))
def test_it_holds_where_the_two_values_compare_so(found, relation, value, space):
    condition = parse_condition(f"{space}scores.x-1{space}{relation}{space}{json.dumps(value)}{space}")
    assert (condition.field, condition.operator, condition.value) == ("scores.x-1", relation, value)
    assert condition.holds(look_up({"scores": {"x-1": found}}, condition.field)) == truth(found, relation, value)


@pytest.mark.parametrize("document", [{}, {"a": None}, {"a": {}}, {"a": {"b": None}}, {"a": [1]}, {"a": "b"}, {"a": 1}])
def test_what_is_missing_passes_no_condition(document):
    assert look_up(document, "a.b") is None
    assert not any(parse_condition(f"a.b {relation} 0").holds(None) for relation in OPERATORS)


@pytest.mark.parametrize(
    "hostile",
    [
        "", " ", "<", "a", "a <", "< 1", "a < b", "a < 'en'", "a = 1", "a <> 1", "a === 1", "a < 1 or 1",
        "a < 1; b < 2", "1 < a < 2", "a.b() < 1", "a[0] < 1", "a..b < 1", ".a < 1", "a. < 1", "a b < 1",
        "not a < 1", "a < true",
        "a == null", "a < NaN", "a < Infinity", "a < 1e999", f"a < {'9' * 5000}", "a < [1]", 'a == {"b": 1}', "a < 0x1",
        "a < 1_0", 'a == "torn', "a == \"\udcff\"", "\udcff < 1", "a < \0", "__import__('os').system('x') < 1",
        "a < " + "[" * 100_000, "a." * 50_000 + "< 1", "a" * 100_000,
    ],
    ids=lambda text: ascii(text[:20]),
)  # fmt: skip
def test_anything_else_is_refused_and_told_what_is_allowed(hostile):
    with pytest.raises(UsageError) as refused:
        parse_condition(hostile)
    sentence = str(refused.value)
    assert 'a condition is FIELD OP VALUE, as scores.toxicity < 0.5 or source == "wiki"' in sentence
    assert all(relation in sentence for relation in OPERATORS)
    assert len(sentence.encode()) < 1000 and "\n" not in sentence


DOCUMENTS = st.fixed_dictionaries(
    {"text": st.sampled_from(["", "one {", "a copy"])}, optional={"source": FOUND, "n": FOUND}
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(DOCUMENTS, min_size=1, max_size=8),
    st.lists(st.tuples(st.sampled_from(["scores.n", "source"]), st.sampled_from(list(OPERATORS)), VALUES),
             min_size=1, max_size=3),
)  # fmt: skip
def test_documents_are_kept_or_in_the_ledger_as_brute_force_has_it(tmp_path, documents, conditions):
    rows = [{"id": str(i), "scores": {"n": d.pop("n")} if "n" in d else None, **d} for i, d in enumerate(documents)]
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = tuple(f"{field} {relation} {json.dumps(value)}" for field, relation, value in conditions)
    kept, ledger, report = [], [], Counter()
    for row in rows:
        values = {"scores.n": (row["scores"] or {}).get("n"), "source": row.get("source")}
        for text, (field, relation, value) in zip(texts, conditions, strict=True):
            if not truth(values[field], relation, value):
                ledger.append((row["id"], field, values[field], text))
                report[field] += 1
                break
        else:
            kept.append(row)
    got, rejects, counts = run(path, where=texts)
    assert got == kept  # unchanged: copies, short texts and all
    assert [(row["id"], row["rule"], row["value"], row["threshold"]) for row in rejects] == ledger
    assert (counts["in"], counts["kept"], counts["rejected"]) == (len(rows), len(kept), len(ledger))
    assert counts["rules"] == report


PAGES = [
    "Drat! The end of it. And that was all.",
    "Drat it. Drat that.\nBlasted thing {",
    "",
    "All is well with the world. " * 20,
    "- one\n- one\n- two ...",
    "Drat. One. Two. Three.",
]
TOXICITY = [1 / 3, 1.0, 0.0, 0.0, 0.0, 1 / 4]  # the share of sentences, by hand


@pytest.fixture
def pages(tmp_path):
    """(documents, a list of words)."""
    path, words = tmp_path / "docs.jsonl", tmp_path / "words.txt"
    path.write_text("".join(json.dumps({"id": str(i), "text": text}) + "\n" for i, text in enumerate(PAGES)))
    words.write_text("drat\nblasted thing\n")
    return path, str(words)


@pytest.mark.parametrize("threshold", [None, 0.0, 0.25, 0.5, 1.0])
def test_toxicity_is_scored_and_rejected_only_above_a_threshold(pages, threshold):
    path, words = pages
    thresholds = {} if threshold is None else {"toxicity": threshold}
    kept, rows, report = run(path, toxicity=words, thresholds=thresholds)
    limit = 1.0 if threshold is None else threshold
    assert [(d["id"], d["scores"]) for d in kept] == [
        (str(i), {"toxicity": score}) for i, score in enumerate(TOXICITY) if score <= limit
    ]
    assert [(row["id"], row["rule"], row["value"], row["threshold"]) for row in rows] == [
        (str(i), "toxicity", score, threshold) for i, score in enumerate(TOXICITY) if score > limit
    ]
    assert report["in"] == report["kept"] + report["rejected"]


def test_scores_first_then_the_same_decision(pages, tmp_path):
    """What a rule decides at once is what conditions on its score decide later, and nothing is measured again."""
    path, words = pages
    scored, rows, report = run(path, score_only=True, quality=RULE_SETS, toxicity=words, pii="drop")
    assert ([d["text"] for d in scored], rows, report["rejected"]) == (PAGES, [], 0)
    table = rules(RULE_SETS)
    for document, toxicity in zip(scored, TOXICITY, strict=True):
        alone = {rule.name: rule.measure(Page(document["text"])) for rule in table}
        assert document["scores"] == alone | {"toxicity": toxicity, "pii": {"email": 0, "ip": 0, "phone": 0}}
        assert alone["gopher_words"] == len(document["text"].split())
    later = tmp_path / "scored.jsonl"
    later.write_text("".join(json.dumps({**d, "text": "gone"}) + "\n" for d in scored))  # so that no score can be new
    for now, where in (
        ({"toxicity": words, "thresholds": {"toxicity": 0.25}}, ["scores.toxicity <= 0.25"]),
        (
            {"quality": ("c4",)},
            ["scores.c4_lorem_ipsum == 0", "scores.c4_curly_brackets <= 0", "scores.c4_sentences >= 3"],
        ),
    ):
        at_once, rejected, _ = run(path, **now)
        kept, rows, _ = run(later, where=tuple(where))
        assert [d["id"] for d in kept] == [d["id"] for d in at_once]
        assert [(row["id"], row["rule"].removeprefix("scores."), row["value"]) for row in rows] == [
            (row["id"], row["rule"], row["value"]) for row in rejected
        ]
        assert all(d["scores"] == scored[int(d["id"])]["scores"] for d in kept)


def test_scores_are_added_to_those_that_are_there(pages, tmp_path):
    path, words = pages
    first, _, _ = run(path, score_only=True, quality=("gopher",))
    again = tmp_path / "again.jsonl"
    again.write_text("".join(json.dumps(d) + "\n" for d in first))
    second, _, _ = run(again, score_only=True, quality=("c4",), toxicity=words)
    both, _, _ = run(path, score_only=True, quality=("gopher", "c4"), toxicity=words)
    assert second == both


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"score_only": True, "dedup": "exact"}, "dropping copies is asked for too"),
        ({"score_only": True, "where": ("a < 1",)}, "a condition is asked for too"),
        ({"score_only": True, "lines": ("c4",)}, "dropping lines is asked for too"),
        ({"score_only": True, "pii": "replace"}, "replacing private information is asked for too"),
        ({"thresholds": {"toxicity": 0.5}}, "a threshold of toxicity needs --toxicity"),
        ({"thresholds": {"lang": 0.5}}, "a threshold of lang needs --lang"),
        ({"thresholds": {"fineweb_short_lines": 0.5}}, "needs --quality fineweb"),
        ({"thresholds": {"words": 5}}, "nothing called 'words' has a threshold; what has is lang, .*gopher_words"),
        ({"lines": ("c5",)}, "no rules about lines 'c5'; there are c4, dedup"),
    ],
)
def test_settings_that_contradict_one_another(pages, changes, sentence):
    with pytest.raises(UsageError, match=sentence):
        run(pages[0], **changes)
