"""The audit's numbers, against documents whose truth is known and a count by brute force; they all add up."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from functools import partial
from math import sqrt

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l2.files.errors import BadInput, UsageError
from l2.files.ledger import Ledger
from l2.text import audit
from l2.text.audit import AuditSettings, audit_documents, share
from l2.text.audit_table import table

SHE = "she her hers herself"
HE = "he him his himself"
THEY = "they them their theirs theirself themself themselves"
LISTS = {  # as the paper has them (Table 9a), written down apart from the code
    ("gender", "she"): SHE,
    ("gender", "he"): HE,
    ("gender", "unspecified"): THEY,
    ("person", "1st"): "I me my mine myself we us our ours ourselves",
    ("person", "2nd"): "you your yours yourself yourselves",
    ("person", "3rd"): f"{SHE} {HE} {THEY} it its itself",
}
DOCUMENTS = [
    {"text": "She gave HIM the book; it's hers.", "source": "web"},
    {"text": "They say: know thyself. Herself, themselves!", "source": "web"},
    {"text": "I am here, you are there.", "source": "books"},
    {"text": "Nothing to see: heroic sheep, shelter, theme, mythic.", "source": "web"},
    {"text": "An African-American woman, Native\nAmericans, a gay man, a Gay bar.", "source": "books"},
    {"text": "The white house; a European, female, gay judge and her Jewish friend.", "source": None},
]


def write(path, documents):
    path.write_text("".join(d if isinstance(d, str) else json.dumps(d) + "\n" for d in documents))
    return path


def run(path, jobs=1, **changes):
    """The report, after checking that its parts add up."""
    ledger = Ledger()
    report = audit_documents([path], AuditSettings(**changes), ledger, jobs=jobs)
    reconcile(report)
    assert report["rejected"] == ledger.total
    assert all(len(line) == len(line.rstrip()) for line in table(report).splitlines())
    return report


def reconcile(report):
    """What must be equal whatever was read."""
    audited, documents = report["audited"], report["documents"]
    assert report["in"] == audited + report["rejected"]
    assert sum(row["documents"]["count"] for row in report["sources"].values()) == audited
    if report["languages"] is None:
        assert documents == audited
    else:
        assert sum(found["count"] for found in report["languages"].values()) == audited
        assert documents == report["languages"].get("en", {"count": 0})["count"]
    for group in report["pronouns"].values():
        counts = [found["count"] for found in group["rows"].values()]
        assert max(counts) <= group["count"] <= min(sum(counts), documents)
        assert group["of"] == documents and {found["of"] for found in group["rows"].values()} == {group["count"]}
    for axis in report["identity"].values():
        counts = [found["count"] for found in axis["terms"].values()]
        assert max(counts, default=0) <= axis["count"] <= sum(counts)
    if report["toxicity"] is not None:
        counts = [found["count"] for found in report["toxicity"]["histogram"]]
        assert sum(counts) == documents and sum(counts[5:]) == report["toxicity"]["count"]


def test_pronouns_with_the_papers_denominators(tmp_path):
    pronouns = run(write(tmp_path / "d.jsonl", DOCUMENTS))["pronouns"]
    gender = pronouns["gender"]
    assert (gender["count"], gender["of"]) == (3, 6)  # documents 1, 2 and 6
    assert {row: (found["count"], found["of"]) for row, found in gender["rows"].items()} == {
        "she": (3, 3), "he": (1, 3), "unspecified": (1, 3)
    }  # fmt: skip
    assert {row: (found["count"], found["of"]) for row, found in gender["of_all"].items()} == {
        "she": (3, 6), "he": (1, 6), "unspecified": (1, 6)
    }  # fmt: skip
    person = pronouns["person"]
    assert (person["count"], person["share"]) == (4, 4 / 6)
    assert [found["count"] for found in person["rows"].values()] == [1, 1, 3]


def test_identity_terms_of_all_and_of_the_axis(tmp_path):
    identity = run(write(tmp_path / "d.jsonl", DOCUMENTS))["identity"]
    counts = {axis: (found["count"], found["of"]) for axis, found in identity.items()}
    assert counts == {
        "gender and sex": (1, 6), "sexual orientation": (2, 6), "nationality": (1, 6), "race and ethnicity": (2, 6),
        "religion": (1, 6),
    }  # fmt: skip
    race = identity["race and ethnicity"]
    assert {term: found["count"] for term, found in race["terms"].items()} == {
        "african": 1, "african american": 1, "european": 1, "white": 1
    }  # fmt: skip
    assert {found["of"] for found in race["terms"].values()} == {2}
    assert race["top"] == ["african", "african american", "european"]  # white is ambiguous
    assert identity["sexual orientation"]["terms"]["gay"]["share"] == 1.0


def test_sources_in_documents_words_bytes_and_tokens(tmp_path):
    path = write(tmp_path / "d.jsonl", DOCUMENTS)
    sources = run(path, token_counter=partial(partial, len))["sources"]
    for source in ("web", "books", None):
        texts = [d["text"] for d in DOCUMENTS if d["source"] == source]
        row = sources[source or str(path)]
        assert row["documents"]["count"] == len(texts)
        assert row["words"] == sum(len(re.findall(r"\w+", text)) for text in texts)
        assert row["bytes"] == sum(len(text.encode()) for text in texts)
        assert row["tokens"] == sum(map(len, texts))
    assert list(sources) == ["web", "books", str(path)]
    assert "tokens" not in run(path)["sources"]["web"]


def by_brute_force(texts):
    """{(group, row) or (group,): documents} by one regular expression a pronoun."""
    counts = Counter()
    for text in texts:
        met = {
            key
            for key, pronouns in LISTS.items()
            if any(re.search(rf"(?<!\w){pronoun}(?!\w)", text, re.IGNORECASE) for pronoun in pronouns.split())
        }
        counts.update(met | {(group,) for group, _ in met})
    return counts


@pytest.mark.parametrize("seed", range(3))
def test_many_documents_against_brute_force(tmp_path, seed):
    rng = random.Random(seed)
    words = " ".join(LISTS.values()).split() + ["Themes", "hiss", "sit", "USA", "gay", "Asian", "the", "x_she"] * 9
    texts = [
        "".join(rng.choice(words) + rng.choice([" ", ", ", "'s ", "-", "\n", "1 "]) for _ in range(rng.randrange(6)))
        for _ in range(600)
    ]
    path = write(tmp_path / "d.jsonl", [{"text": text, "source": f"s{i % 3}"} for i, text in enumerate(texts)])
    report, truth = run(path), by_brute_force(texts)
    for group, found in report["pronouns"].items():
        assert found["count"] == truth[group,]
        assert {(group, row): f["count"] for row, f in found["rows"].items()} == {
            key: truth[key] for key in LISTS if key[0] == group
        }
    for term, axis in (("gay", "sexual orientation"), ("asian", "race and ethnicity")):
        hits = sum(bool(re.search(rf"\b{term}\b", text, re.IGNORECASE)) for text in texts)
        assert report["identity"][axis]["count"] == report["identity"][axis]["terms"][term]["count"] == hits > 0


@given(st.integers(0, 50), st.integers(0, 50))
def test_shares_and_their_standard_errors(count, more):
    n = count + more
    if n == 0:
        assert share(0, 0) == {"count": 0, "of": 0, "share": None, "stderr": None}
        return
    found = share(count, n)
    answers = [1.0] * count + [0.0] * more
    mean = sum(answers) / n
    spread = sqrt(sum((x - mean) ** 2 for x in answers) / n)
    assert found["share"] == pytest.approx(mean) and found["stderr"] == pytest.approx(spread / sqrt(n), abs=1e-9)


def test_toxicity_in_ten_bins_whose_lower_ends_belong_to_them(tmp_path, lid_model):
    (tmp_path / "words.txt").write_text("drat\n")
    texts = ["Drat. " * bad + "Well. " * (10 - bad) for bad in range(11)]
    path = write(tmp_path / "d.jsonl", [{"text": text} for text in texts])
    toxicity = run(path, toxicity=str(tmp_path / "words.txt"))["toxicity"]
    assert [found["count"] for found in toxicity["histogram"]] == [1] * 9 + [2]
    assert (toxicity["count"], toxicity["of"], toxicity["threshold"]) == (6, 11, 0.5)
    assert [(found["from"], found["to"]) for found in toxicity["histogram"]][4:6] == [(0.4, 0.5), (0.5, 0.6)]
    with pytest.raises(UsageError, match="no label"):
        run(path, toxicity=str(lid_model))


def test_in_english_documents_alone_where_languages_are_known(tmp_path, lid_model):
    texts = [
        "She was the first woman on the quay to wave at the ferry when it left the harbour.",
        "Personne sur le quai n'a salué le bateau; me, us, he: quand il a quitté le port de la ville.",
        "x = {1: 2}; 0x7f 0x45",
    ]
    path = write(tmp_path / "d.jsonl", [{"text": text} for text in texts])
    report = run(path, lid_model=str(lid_model), lang_threshold=0.6)
    assert {code: found["count"] for code, found in report["languages"].items()} == {"en": 1, "fr": 1, "unknown": 1}
    assert (report["documents"], report["scope"]) == (1, "English documents")
    assert report["pronouns"]["gender"]["rows"]["she"]["share"] == 1.0
    assert report["pronouns"]["gender"]["rows"]["he"]["count"] == 0
    assert run(path)["pronouns"]["gender"]["rows"]["he"]["count"] == 1


def test_the_same_report_from_any_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "CHUNK_DOCUMENTS", 3)
    monkeypatch.setattr(audit, "MAX_SOURCES", 4)
    rng = random.Random(0)
    documents = [dict(rng.choice(DOCUMENTS), source=f"s{rng.randrange(9)}") for _ in range(50)]
    path = write(tmp_path / "d.jsonl", documents)
    one, many = run(path), run(path, jobs=3)
    assert json.dumps(one) == json.dumps(many)
    first = list(dict.fromkeys(d["source"] for d in documents))[:4]
    assert set(one["sources"]) == {*first, "(other sources)"}
    counts = Counter(d["source"] if d["source"] in first else "(other sources)" for d in documents)
    assert {name: row["documents"]["count"] for name, row in one["sources"].items()} == counts


BAD = ["torn {\n", "[1]\n", '{"id": 1}\n', '{"text": 7}\n', '{"text": "x", "source": 5}\n', '{"text": "\0"}\n']


HOSTILE = {"text": "\0 \U0001f600 she", "source": "\x1b[31m\n"}


@pytest.mark.parametrize("bad", BAD)
def test_bad_lines_stop_or_are_skipped(tmp_path, bad):
    path = write(tmp_path / "d.jsonl", [DOCUMENTS[0], bad, DOCUMENTS[1]])
    with pytest.raises(BadInput, match=r"d\.jsonl:2: found .*; expected"):
        run(path)
    report = run(path, skip_bad=True)
    assert (report["in"], report["audited"], report["rejected"]) == (3, 2, 1)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([*DOCUMENTS, *BAD, {"text": ""}, HOSTILE]), min_size=1, max_size=9))
def test_whatever_comes_it_adds_up(tmp_path, documents):
    report = run(write(tmp_path / "d.jsonl", documents), skip_bad=True)
    assert report["in"] == len(documents)
    assert "\x1b" not in table(report)


def test_the_table_shows_the_counts(tmp_path):
    lines = table(run(write(tmp_path / "d.jsonl", DOCUMENTS))).splitlines()
    assert lines[0] == "6 documents read, 6 audited, 0 rejected"
    assert "Languages: not identified; below, every document counts as English" in lines
    cells = {line.split("  ")[1]: line.split() for line in lines if line.startswith("  ")}
    assert cells["gender: any"][2:] == ["3", "50.00", "±", "20.41", "75.23"]
    rows = {line.split(maxsplit=1)[0]: line.split()[1:] for line in lines if line.startswith("    ")}
    assert rows["he"] == ["1", "16.67", "±", "15.21", "33.33", "±", "27.22", "50.73"]
    assert rows["gay"] == ["2", "100.00", "±", "0.00"]
