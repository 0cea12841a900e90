"""What is explained is what happens: the first reject among a document's rows is its row in the ledger."""

from __future__ import annotations

import json

import pytest

from l2.files.errors import L2Error, UsageError
from l2.files.ledger import Ledger
from l2.text.explain import explain
from l2.text.filtering import filter_documents
from l2.text.pipeline import FilterSettings
from l2.text.quality import RULE_SETS, rules

PAGE = " ".join(f"The number{i} of coin{i} and{i} key{i} was lost{i} again{i}." for i in range(30))
OTHER = " ".join(f"Another{i} and then{i} some{i} more{i} to have{i} the end." for i in range(30))
TEXTS = {
    "good": f"Menu\n{PAGE}",
    "brackets": f"{PAGE} {{ and more of it.",
    "near": PAGE.replace("number7 ", "figure7 "),
    "copy": f"Home\n{PAGE.upper()}",
    "private": f"{OTHER} Write to me@site.org for more of it.",
    "blocked": "Too short by far, and repeated repeated repeated.",
    "menu": "Home\nMenu",
    "again": f"{OTHER} Write to you@site.org for more of it.",
}


class Rows(list):
    """A writer into a list."""

    def write(self, record):
        self.append(dict(record))


@pytest.fixture
def documents(tmp_path):
    path = tmp_path / "docs.jsonl"
    rows = [{"id": key, "text": text, "url": f"https://{key}.example/"} for key, text in TEXTS.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "block").write_text("blocked.example\n")
    return path


@pytest.mark.parametrize("dedup", ["none", "exact", "minhash"])
@pytest.mark.parametrize("pii", ["keep", "replace", "drop"])
@pytest.mark.parametrize("lines", [False, True])
def test_the_first_reject_is_the_ledgers_row(documents, tmp_path, dedup, pii, lines):
    asked = FilterSettings(
        dedup=dedup, pii=pii, lines=("c4", "dedup") if lines else (), url_blocklists=(str(tmp_path / "block"),)
    )
    kept, ledger = Rows(), Rows()
    filter_documents([documents], kept, Ledger(ledger), asked)
    for key in TEXTS:
        rows = explain([documents], key, asked)
        assert {row["id"] for row in rows} == {key}
        rejects = [row for row in rows if row["verdict"] == "reject"]
        expected = [row for row in ledger if row["id"] == key and "text_line" not in row]
        assert [(row["rule"], row["value"], row["threshold"]) for row in rejects[:1]] == [
            (row["rule"], row["value"], row["threshold"]) for row in expected
        ]
        assert bool(rejects) == (key not in [document["id"] for document in kept])
        if key != "blocked":  # its lines are never looked at, but explained
            assert [(row["text_line"], row["rule"]) for row in rows if row["verdict"] == "drop line"] == [
                (row["text_line"], row["rule"]) for row in ledger if row["id"] == key and "text_line" in row
            ]


def test_every_rule_is_measured_though_an_earlier_one_fails(documents):
    rows = explain([documents], "blocked", FilterSettings(quality=RULE_SETS, pii="drop"))
    assert [row["rule"] for row in rows] == [rule.name for rule in rules(RULE_SETS)] + [
        "pii", "exact_duplicate", "near_duplicate",
    ]  # fmt: skip
    by_rule = {row["rule"]: row for row in rows}
    assert by_rule["gopher_words"] == {
        "id": "blocked", "rule": "gopher_words", "value": 8, "threshold": 50, "verdict": "reject"
    }  # fmt: skip
    assert by_rule["c4_sentences"]["verdict"] == "reject"
    assert by_rule["gopher_mean_word_length"]["threshold"] == [3, 10]


def test_nothing_is_read_beyond_it_and_a_missing_one_is_told(documents):
    documents.write_text(documents.read_text() + "torn\n")
    assert explain([documents], "good", FilterSettings())
    with pytest.raises(L2Error, match="no document has the id 'nobody'"):
        explain([documents], "nobody", FilterSettings(skip_bad=True))


@pytest.mark.parametrize("threshold", [None, 0.2])
def test_toxicity_and_conditions_are_explained_as_the_ledger_has_them(documents, tmp_path, threshold):
    (tmp_path / "words").write_text("repeated\n")
    where = ("scores.toxicity <= 0.5", 'id != "menu"', "scores.lang_p >= 0.5")
    thresholds = {} if threshold is None else {"toxicity": threshold}
    asked = FilterSettings(
        quality=(), dedup="none", toxicity=str(tmp_path / "words"), thresholds=thresholds, where=where
    )
    kept, ledger = Rows(), Rows()
    filter_documents([documents], kept, Ledger(ledger), asked)
    assert (kept, len(ledger)) == ([], len(TEXTS))  # no document has a lang_p
    for key, row in zip(TEXTS, ledger, strict=True):
        explained = explain([documents], key, asked)
        toxicity = float(key == "blocked")
        assert [(r["rule"], r["value"], r["threshold"], r["verdict"]) for r in explained] == [
            ("toxicity", toxicity, threshold, "reject" if threshold is not None and toxicity > threshold else "pass"),
            ("scores.toxicity", toxicity, where[0], "reject" if toxicity > 0.5 else "pass"),
            ("id", key, where[1], "reject" if key == "menu" else "pass"),
            ("scores.lang_p", None, where[2], "reject"),
        ]
        first = next(r for r in explained if r["verdict"] == "reject")
        assert [first[k] for k in ("rule", "value", "threshold")] == [row[k] for k in ("rule", "value", "threshold")]
    with pytest.raises(UsageError, match="nothing to explain"):
        explain([documents], "good", FilterSettings(score_only=True, dedup="none"))
