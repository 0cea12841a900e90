"""Hostile documents through every check at once: an answer for each, scores within bounds, the same answer twice."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l2.files.jsonl import Record
from l2.files.ledger import Ledger
from l2.text.pipeline import FilterSettings, Tally, load_checks
from l2.text.quality import RULE_SETS, Page, findings, rules

QUESTION = "What do the keepers of the lighthouse say to the ships that pass in the fog at night?"
PIECES = [QUESTION, "fool", "猫", "\0", "\n", "...", "{", "a@b.com", "1.2.3.4", "- x", "בעיה", "The cat sat. ", "👍🏽"]
HUGE = {
    "nothing": "",
    "one word of a megabyte": "a" * 1_000_000,
    "one sign of a megabyte": "^" * 1_000_000,
    "100,000 lines": "\n" * 100_000,
    "10,000 equal lines": "the same line.\n" * 10_000,
    "20,000 equal words": "the " * 20_000,
    "one word a line": "\n".join(map(str, range(20_000))),
    "NUL": "\0" * 10_000 + "text\0\n\0" * 1_000,
    "right to left": "\u202eשלום עולם, مرحبا بالعالم.\u202c\n" * 2_000,
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈👍🏽 " * 5_000,
    "marks upon a letter": "e" + "\u0301" * 50_000,
    "ideographs without an end": "猫" * 100_000,
    "every sign": "".join(map(chr, [*range(0xD800), *range(0xE000, 0x20000)])),
    "addresses": "a@" * 20_000 + "1.2.3." * 20_000 + "+1 (212) " * 10_000 + "::" * 20_000,
    "dots and brackets": "...!?{\"'”)]" * 20_000,
    "line ends of all kinds": "a\rb\r\nc\x0bd\x0ce\x1cf\x85g\u2028h\u2029" * 1_000,
}


@pytest.fixture(scope="module")
def ask(lid_model, tmp_path_factory):
    """A function from a text to (findings, what became of the document), through fresh checks of every kind."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "words").write_text("fool\nבעיה\n猫\n")
    (folder / "task.jsonl").write_text(json.dumps({"question": QUESTION}) + "\n")
    (folder / "block").write_text("blocked.example\n")

    def load(score_only):
        asked = FilterSettings(
            languages=("en", "he"), lid_model=str(lid_model), quality=RULE_SETS, toxicity=str(folder / "words"),
            decontaminate=(str(folder / "task.jsonl"),), dedup="none", score_only=score_only,
            **({} if score_only else {
                "url_blocklists": (str(folder / "block"),), "lines": ("c4", "dedup"), "pii": "replace",
                "where": ("scores.toxicity < 2",),
            }),
        )  # fmt: skip
        return load_checks(asked, Ledger(type("Nowhere", (), {"write": lambda self, row: None})()), Tally())

    def ask(text, score_only=True):
        document = Record({"id": "x", "text": text, "url": text[:100]}, "docs.jsonl:1")
        return [finding for check in load(score_only) for finding in check(document)], document

    return ask


def judge(ask, text):
    """Twice the same, within bounds, and all of it can be written down."""
    for score_only in (True, False):
        found, document = ask(text, score_only)
        assert (found, document) == ask(text, score_only)
        for finding in found:
            json.dumps(finding, allow_nan=False)
        scores = json.loads(json.dumps(document, allow_nan=False))["scores"]
        assert 0 <= scores["lang_p"] <= 1 and 0 <= scores["toxicity"] <= 1 and scores["contaminated"] in (0, 1)
    table = rules(RULE_SETS)
    assert list(findings(Page(text), table)) == list(findings(Page(text), table))
    for rule in table:
        value = rule.measure(Page(text))
        assert math.isfinite(value) and value >= 0
        if any(part in rule.name for part in ("lines", "chars", "gram", "alphabetic", "paragraphs")):
            assert value <= 1 + 1e-12, rule.name


@pytest.mark.parametrize("name", HUGE)
def test_huge_and_odd_documents(ask, name):
    judge(ask, HUGE[name])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=400))
def test_any_text(ask, text):
    judge(ask, text)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=60))
def test_pieces_of_what_checks_look_for(ask, pieces):
    text = " ".join(pieces)
    judge(ask, text)
    found = {finding.rule: finding for finding in ask(text)[0]}
    assert found["contaminated"].passes == (QUESTION not in pieces)
    assert (found["toxicity"].value > 0) == any(word in pieces for word in ("fool", "猫", "בעיה"))
