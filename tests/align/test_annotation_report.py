"""Agreement against Gwet's own example, and the habits of simulated annotators against what is known of them."""

from __future__ import annotations

import itertools
import json
import math
import sys

import pytest

from l2.align.annotation.board import Answer, Board, Item
from l2.align.annotation.desk import Desk, read_events
from l2.align.annotation.judge import quartiles, rating_of, scores_of, simulate
from l2.align.annotation.report import report, report_lines, step
from l2.align.losses import RATINGS
from l2.files.errors import BadInput, L2Error, UsageError


def test_steps_are_in_order():
    scale = [step(1, rating) for rating in RATINGS] + [step(0, rating) for rating in reversed(RATINGS)]
    assert scale == list(range(8))


SCORE = f"""{sys.executable} -c "
import json, sys
for line in sys.stdin:
    row = json.loads(line)
    worth = float(row['response'].split()[1])
    print(json.dumps(row | {{'rewards': {{'helpful': worth, 'safe': worth - 0.5}}}}))
" """


def items(count: int, gap: float = 1.0) -> list[Item]:
    """Items whose first answer is better by `gap`; its text holds its worth."""
    said = [{"role": "user", "content": "who"}]
    return [Item(f"i{n}", said, (Answer(f"{n} {gap}", "A"), Answer(f"{n} 0.0", "B"))) for n in range(count)]


def desk(tmp_path, board: Board) -> Desk:
    ticks = itertools.count()
    return Desk(board, tmp_path / "p.jsonl", {}, clock=lambda: float(next(ticks)))


@pytest.mark.parametrize(("gap", "scale"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.4)])
def test_simulated_annotators_follow_bradley_and_terry(tmp_path, gap, scale):
    """With logistic noise of scale s the better answer is chosen with probability σ(gap / s)."""
    at = desk(tmp_path, Board(items(1000, gap), overlap=2, source="simulated"))
    assert simulate(at, SCORE, scale, 0) == 0
    found, p = report(at.events()), 1 / (1 + math.exp(-gap / scale))
    assert found["judgements"] == 2000 and at.board.complete
    assert abs(found["won"]["A"]["won"] / 2000 - p) < 4 * math.sqrt(p * (1 - p) / 2000)
    same = p * p + (1 - p) ** 2
    assert abs(found["agreement"]["same_choice"] - same) < 4 * math.sqrt(same * (1 - same) / 1000)
    for person in found["people"].values():
        assert abs(person["left"] - 0.5) < 4 * math.sqrt(0.25 / 1000), "the order shown is random"
    assert [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()] == list(
        at.board.records.values()
    )
    at.close()
    assert report(read_events(tmp_path / "p.jsonl")) == found
    assert "2,000 judgements of 1,000 items" in report_lines(found)[0]


def test_without_noise_the_better_answer_and_ratings_by_quartiles(tmp_path):
    said = [{"role": "user", "content": "who"}]
    pairs = [Item(f"i{n}", said, (Answer(f"a {n / 10}", "A"), Answer("b 0.0", "B"))) for n in range(1, 41)]
    at = desk(tmp_path, Board(pairs, checks := [Item("c", said, (Answer("a 9", None), Answer("b 0")), check=True)]))
    simulate(at, SCORE, 0.0, 0)
    found = report(at.events())
    assert found["won"]["A"] == {"won": 40, "lost": 0} and len(checks) == 1
    assert found["people"]["judge-1"]["checks"] == found["people"]["judge-1"]["passed"] == 1
    assert all(abs(share - 0.25) <= 0.05 for share in found["ratings"].values())
    at.close()


def test_ties_favour_nobody(tmp_path):
    """Scores that are all alike say nothing of the models: each wins half, and so does each place."""
    at = desk(tmp_path, Board(items(1000, 0.0)))
    simulate(at, SCORE, 0.0, 0)
    found = report(at.events())
    assert abs(found["won"]["A"]["won"] / 1000 - 0.5) < 4 * math.sqrt(0.25 / 1000)
    assert abs(found["people"]["judge-1"]["left"] - 0.5) < 4 * math.sqrt(0.25 / 1000)
    assert found["ratings"]["negligibly"] == 1.0
    at.close()


def test_safety_labels_and_what_the_paper_leaves_out(tmp_path):
    """Of (safe, unsafe) pairs the chosen is safe; noise now and then prefers the unsafe one, and those are left out."""
    at = desk(tmp_path, Board(items(300), safety=True))
    left_out = simulate(at, SCORE, 1.0, 0)
    assert left_out and left_out + len(at.board.records) == 300
    assert {record["safety"] for record in at.board.records.values()} == {"chosen_safe"}
    assert all(record["models"]["chosen"] == "A" for record in at.board.records.values())
    at.close()


def test_ratings_of_differences():
    limits = quartiles([0.1, -0.2, 0.3, -0.4])
    assert [rating_of(d, limits) for d in (-0.4, 0.3, 0.2, 0.1)] == list(RATINGS)
    assert rating_of(0.0, quartiles([0.0, 0.0])) == "negligibly"


@pytest.mark.parametrize(
    ("command", "error", "words"),
    [
        ("false", L2Error, "ended with status 1"),
        ("head -n 1", BadInput, "found 1 records; expected 4"),
        ("cat", BadInput, "a number in score"),
        ("sed 's/$/ /; s/} $/, \"score\": true}/'", BadInput, "a number in score"),
        ("tac", BadInput, "another answer than it was given"),
        ("echo no", BadInput, "no valid JSON"),
        (SCORE.replace("worth - 0.5", "float('nan')"), BadInput, "no valid JSON"),
    ],
)
def test_judges_that_do_not_judge(command, error, words):
    with pytest.raises(error, match=words):
        scores_of(command, items(2), True)


def test_a_desk_goes_on_only_with_its_own_work(tmp_path):
    at = Desk(Board(items(2)), tmp_path / "p.jsonl", {"seed": 0})
    at.board.current("a", 0.0)
    at.do(at.board.choose("a", "i0", 0, "better", None, 1.0))
    with pytest.raises(L2Error, match="another process"):
        Desk(Board(items(2)), tmp_path / "p.jsonl", {"seed": 0})
    at.close()
    with pytest.raises(UsageError, match="seed: 0 there, 1 asked"):
        Desk(Board(items(2)), tmp_path / "p.jsonl", {"seed": 1})
    written = (tmp_path / "p.jsonl").read_bytes()
    (tmp_path / "p.jsonl").write_bytes(written[:20])  # cut between the journal's line and this one
    again = Desk(Board(items(2)), tmp_path / "p.jsonl", {"seed": 0})
    assert (tmp_path / "p.jsonl").read_bytes() == written and again.board.current("a", 2.0).id == "i1"
    again.do(again.board.undo("a", 3.0))
    assert (tmp_path / "p.jsonl").read_bytes() == b"" and len(again.journal.events) == 3, "an undo loses nothing"
    again.close()
    (tmp_path / "q.jsonl").write_text("{}\n")
    with pytest.raises(UsageError, match="without its journal"):
        Desk(Board(items(2)), tmp_path / "q.jsonl", {})
    with pytest.raises(UsageError, match=r"ending in \.jsonl"):
        Desk(Board(items(2)), "-", {})


def test_preferences_that_can_not_be_written_for_a_while_catch_up(tmp_path):
    at = Desk(Board(items(3)), tmp_path / "p.jsonl", {})
    (tmp_path / "p.jsonl").unlink()
    (tmp_path / "p.jsonl").mkdir()  # nobody can append to a directory
    for n in range(3):
        if n == 2:
            (tmp_path / "p.jsonl").rmdir()
        at.board.current("a", 0.0)
        at.do(at.board.choose("a", f"i{n}", 0, "better", None, 1.0))
    written = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert written == list(at.board.records.values()) and len(written) == 3
    at.close()
