"""The stages together: nothing is lost, the earliest copy survives, the ledger tells why."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l2.files.errors import BadInput
from l2.files.jsonl import Record
from l2.files.ledger import Ledger
from l2.text.checks import language_check
from l2.text.filtering import filter_documents
from l2.text.pipeline import FilterSettings, judged

PAGE = " ".join(f"The number{i} of coin{i} and{i} key{i} was lost{i} again{i}." for i in range(30))


class Kept(list):
    """A writer into a list."""

    def write(self, record):
        self.append(dict(record))


def run(path, **changes):
    """(kept documents, ledger rows, report) of the documents in `path`."""
    kept, rows = Kept(), Kept()
    report = filter_documents([path], kept, Ledger(rows), FilterSettings(**changes))
    assert report["in"] == report["kept"] + report["rejected"] == len(kept) + len(rows)
    return kept, rows, report


def write(path, documents):
    path.write_text("".join(d if isinstance(d, str) else json.dumps(d) + "\n" for d in documents))
    return path


def test_of_copies_the_earliest_survives_and_the_ledger_names_it(tmp_path):
    near = PAGE.replace("number7 ", "figure7 ")
    unlike = " ".join(f"Another{i} and then{i} some{i} more{i} to have{i}." for i in range(30))
    path = write(
        tmp_path / "docs.jsonl",
        [
            {"id": "z", "text": PAGE, "source": "web", "more": [1]},
            {"id": "a", "text": PAGE.upper() + "!", "source": "web"},
            {"text": near},
            {"text": unlike},
        ],
    )
    kept, rows, report = run(path, quality=())
    assert kept == [
        {"id": "z", "text": PAGE, "source": "web", "more": [1]},
        {"id": f"{path}:4", "text": unlike},
    ]
    exact, close = rows
    assert exact == {
        "id": "a", "source": "web", "line": 2, "rule": "exact_duplicate", "value": {"of": "z"}, "threshold": None
    }  # fmt: skip
    words, near_words = (text.lower().replace(".", "").split() for text in (PAGE, near))
    a, b = ({tuple(w[i : i + 5]) for i in range(len(w) - 4)} for w in (words, near_words))
    assert close == {
        "id": f"{path}:3", "source": str(path), "line": 3, "rule": "near_duplicate",
        "value": {"of": "z", "jaccard": len(a & b) / len(a | b)}, "threshold": 0.8,
    }  # fmt: skip
    assert report["rules"] == {"exact_duplicate": 1, "near_duplicate": 1}
    assert len(run(path, quality=(), dedup="exact")[0]) == 3
    assert len(run(path, quality=(), dedup="none")[0]) == 4


def test_a_document_that_quality_drops_never_stands_for_its_copies(tmp_path):
    """The bad one comes first and is 0.8 similar: without the rules it would be the survivor."""
    path = write(tmp_path / "docs.jsonl", [{"id": "bad", "text": PAGE + " {"}, {"id": "good", "text": PAGE}])
    kept, rows, _ = run(path)
    assert [document["id"] for document in kept] == ["good"]
    assert [(row["id"], row["rule"], row["value"], row["threshold"]) for row in rows] == [
        ("bad", "c4_curly_brackets", 1, 0)
    ]


def test_language_adds_scores_and_calls_unsure_unknown():
    answers = {"a": ("en", 0.9), "b": ("fr", 0.9), "c": ("en", 0.49), "d": ("de", 0.5)}
    documents = [Record({"id": k, "text": k}, f"stdin:{i}") for i, k in enumerate(answers, 1)]
    documents[0]["scores"] = {"quality": 3, "lang": "old"}
    rows, seen = Kept(), Counter()
    check = language_check(answers.__getitem__, ("en", "de"), 0.5, seen)
    kept = list(judged(documents, [check], Ledger(rows)))
    assert [(d["id"], d["scores"]) for d in kept] == [
        ("a", {"quality": 3, "lang": "en", "lang_p": 0.9}),
        ("d", {"lang": "de", "lang_p": 0.5}),
    ]
    assert [(row["id"], row["value"]["lang"]) for row in rows] == [("b", "fr"), ("c", "en")]
    assert rows[1] == {
        "id": "c", "source": "stdin", "line": 3, "rule": "language",
        "value": {"lang": "en", "lang_p": 0.49}, "threshold": {"lang": ["en", "de"], "lang_p": 0.5},
    }  # fmt: skip
    assert seen == {"en": 1, "fr": 1, "unknown": 1, "de": 1}


@pytest.mark.parametrize(
    "bad",
    [
        '{"text": "torn\n',
        "[1, 2]\n",
        '{"id": "no text"}\n',
        '{"text": 7}\n',
        '{"text": "x", "scores": "high"}\n',
        '{"text": "x", "url": 1}\n',
    ],
)
def test_bad_lines_stop_or_are_skipped_into_the_ledger(tmp_path, bad):
    path = write(tmp_path / "docs.jsonl", [{"text": PAGE}, bad, {"text": "short"}])
    with pytest.raises(BadInput, match=r"docs\.jsonl:2: found .*; expected"):
        run(path)
    kept, rows, report = run(path, skip_bad=True)
    assert len(kept) == 1
    assert [(row["rule"], row["line"]) for row in rows] == [("bad_line", 2), ("gopher_words", 3)]
    assert report["in"] == 3


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from([{"text": PAGE}, {"text": PAGE + " More."}, {"text": "x"}, {"text": ""}, {}, "torn\n"]),
             min_size=1, max_size=12),
    st.sampled_from(["minhash", "exact", "none"]),
    st.sampled_from([(), ("gopher", "c4"), ("fineweb",)]),
)  # fmt: skip
def test_in_is_kept_plus_rejected_whatever_comes(tmp_path, documents, dedup, quality):
    path = write(tmp_path / "docs.jsonl", documents)
    kept, rows, report = run(path, dedup=dedup, quality=quality, skip_bad=True)
    assert report["in"] == len(documents)
    assert sorted([int(d["id"].rpartition(":")[2]) for d in kept] + [row["line"] for row in rows]) == list(
        range(1, len(documents) + 1)
    )
    assert [d["id"] for d in kept] == sorted((d["id"] for d in kept), key=lambda place: int(place.rpartition(":")[2]))


def test_lines_dropped_are_counted_apart_and_an_empty_document_is_rejected(tmp_path):
    footer = "Copyright 2019 by the Example Company"
    path = write(
        tmp_path / "docs.jsonl",
        [
            {"id": 1, "text": f"{PAGE}\n{footer}"},
            {"id": 2, "text": f"A line of its own.\n{footer.replace('2019', '2020')}"},
            {"id": 3, "text": f"{footer}!\n\n{PAGE}", "source": "web"},
            {"id": 4, "text": " "},
        ],
    )
    kept, rows = Kept(), Kept()
    settings = FilterSettings(quality=(), dedup="none", lines=("dedup",))
    report = filter_documents([path], kept, Ledger(rows), settings)
    assert [(d["id"], d["text"]) for d in kept] == [(1, f"{PAGE}\n{footer}"), (2, "A line of its own.")]
    normal = "copyright 0000 by the example company"
    assert [(row["id"], row.get("text_line"), row["rule"], row["value"]) for row in rows] == [
        (2, 2, "duplicate_line", normal),
        (3, 1, "duplicate_line", normal),
        (3, 3, "duplicate_line", PAGE.lower().replace(".", "").translate(dict.fromkeys(range(48, 58), "0"))[:80]),
        (3, None, "lines_left", 0),
        (4, None, "lines_left", 0),
    ]
    assert (rows[2]["source"], rows[2]["line"]) == ("web", 3)
    assert (report["in"], report["kept"], report["rejected"]) == (4, 2, 2)
    assert report["lines"] == {"in": 6, "kept": 3, "dropped": 3, "rules": {"duplicate_line": 3}}


def test_private_information_is_replaced_or_rejected_and_blocked_sites_are_out(tmp_path):
    (tmp_path / "block").write_text("people.example\n")
    path = write(
        tmp_path / "docs.jsonl",
        [
            {"id": 1, "text": "Mail a@b.com or c@d.org.", "url": "https://b.com/"},
            {"id": 2, "text": "Nothing here.", "url": "http://www.people.example/x"},
            {"id": 3, "text": "Call 212-555-0123.", "url": None, "scores": {"lang": "en"}},
            {"id": 4, "text": "Nothing here either."},
        ],
    )
    common = {"quality": (), "dedup": "none", "url_blocklists": (str(tmp_path / "block"),)}
    kept, rows, _ = run(path, pii="replace", **common)
    assert [(d["id"], d["text"], d["scores"]) for d in kept] == [
        (1, "Mail <EMAIL> or <EMAIL>.", {"pii": {"email": 2, "ip": 0, "phone": 0}}),
        (3, "Call <PHONE>.", {"lang": "en", "pii": {"email": 0, "ip": 0, "phone": 1}}),
        (4, "Nothing here either.", {"pii": {"email": 0, "ip": 0, "phone": 0}}),
    ]
    assert [(row["id"], row["rule"], row["value"]) for row in rows] == [(2, "url_blocklist", "people.example")]
    kept, rows, _ = run(path, pii="drop", **common)
    assert [d["id"] for d in kept] == [4]
    assert [(row["id"], row["rule"]) for row in rows] == [(1, "pii"), (2, "url_blocklist"), (3, "pii")]
    assert rows[2]["value"] == {"email": 0, "ip": 0, "phone": 1} and rows[2]["threshold"] == 0
    assert all("scores" not in d for d in run(path, quality=(), dedup="none")[0][::3])
