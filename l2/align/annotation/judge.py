"""Simulated annotators: a command that scores answers, and noise, in the place of people."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from l2.align.annotation.board import Board, Event, Item
from l2.align.annotation.desk import Desk
from l2.align.losses import RATINGS
from l2.align.preferences import SAFE
from l2.files.errors import BadInput, L2Error
from l2.files.jsonl import Record, encode_record, parse_records
from l2.generate.engine import prompt_key


def _rows(items: Sequence[Item]) -> Iterator[dict[str, Any]]:
    for item in items:
        for answer in item.answers or ():
            yield {"prompt": item.messages, "response": answer.text, "id": item.id, "model": answer.model}


def _number(record: Record, value: Any, name: str) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise BadInput(record.where, f"fields {', '.join(sorted(record))}", f"a number in {name}, from --judge")
    return float(value)


def _score(record: Record, safety: bool) -> tuple[float, float | None]:
    """The score of an answer and, in safety work, the logit of its safety (above 0 is safe)."""
    rewards = record.need("rewards", dict) if "rewards" in record else {}
    kind = "safe" if safety else "helpful"
    one = next(iter(rewards.values())) if len(rewards) == 1 else None
    score = _number(record, record.get("score", rewards.get(kind, one)), f"score or rewards.{kind}")
    return score, _number(record, rewards.get("safe"), "rewards.safe") if safety else None


def scores_of(command: str, items: Sequence[Item], safety: bool) -> list[list[tuple[float, float | None]]]:
    """(score, logit of safety or None) of both answers of each item, by a shell command.

    The command reads sample records, one for each answer, and writes the same in the same order with `score` or
    `rewards` added; safety work needs rewards.safe, and compares by it where there is no score. Raises L2Error where
    the command fails, BadInput where what it writes does not fit what it read.
    """
    asked = list(_rows(items))
    data = b"".join(map(encode_record, asked))
    done = subprocess.run(command, shell=True, input=data, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise L2Error(f"--judge: the command ended with status {done.returncode}")
    answered = list(parse_records(done.stdout.split(b"\n"), "--judge"))
    if len(answered) != len(asked):
        raise BadInput("--judge", f"{len(answered):,} records", f"{len(asked):,}, one for each it was given")
    for record, row in zip(answered, asked, strict=True):
        if record.get("id") != row["id"] or record.get("response") != row["response"]:
            raise BadInput(record.where, "another answer than it was given at this place", "the same order")
    scored = [_score(record, safety) for record in answered]
    return [scored[2 * i : 2 * i + 2] for i in range(len(items))]


def noise(scale: float, *key: str | int) -> float:
    """Logistic noise of that scale, always the same for the same `key`: preferences then follow Bradley and Terry."""
    uniform = (prompt_key(orjson.dumps(key).decode()) + 0.5) / 2**64
    return scale * math.log(uniform / (1.0 - uniform))


def quartiles(differences: Sequence[float]) -> list[float]:
    """Where a quarter, a half and three quarters of the sizes of `differences` lie, so that ratings are as frequent."""
    sizes = sorted(map(abs, differences))
    return [sizes[len(sizes) * part // 4] for part in (1, 2, 3)] if sizes else [0.0, 0.0, 0.0]


def rating_of(difference: float, limits: Sequence[float]) -> str:
    """The word for how much better the preferred answer is, by `quartiles` (ours)."""
    return RATINGS[3 - sum(abs(difference) >= limit and limit > 0 for limit in limits)]


def simulate(desk: Desk, command: str, scale: float, seed: int) -> int:
    """Have `overlap` annotators, each with noise of its own, judge everything; a tie is decided by chance.

    Returns how many judgements are left out, as in the paper (§3.2.1): of an answer that alone is unsafe and preferred.
    """
    board = desk.board
    items = [item for item in board.items.values() if item.answers is not None]
    scored = dict(zip([item.id for item in items], scores_of(command, items, board.safety), strict=True))
    limits = quartiles([a[0] - b[0] for a, b in scored.values()])
    left_out = 0
    for number in range(board.overlap):
        who = f"judge-{number + 1}"
        while (item := board.current(who, desk.clock())) is not None:
            scores = scored[item.id]
            difference = scores[0][0] - scores[1][0] + noise(scale, seed, who, item.id)
            # Always the first of equals would favour its model.
            better = int((difference or noise(1.0, seed, who, item.id, "tie")) < 0)
            event = _judged(board, who, item, better, rating_of(difference, limits), scores, desk.clock())
            left_out += event["event"] == "skip"
            desk.do(event, sync=False)
    desk.journal.sync()
    return left_out


def _judged(
    board: Board,
    who: str,
    item: Item,
    better: int,
    rating: str,
    scores: Sequence[tuple[float, float | None]],
    now: float,
) -> Event:
    """The event of one simulated judgement."""
    label = None
    if board.safety:
        chosen, rejected = (float((scores[side][1] or 0.0) > 0) for side in (better, 1 - better))
        if (chosen, rejected) == (0.0, 1.0):
            return board.skip(who, item.id, now)
        label = next(name for name, safe in SAFE.items() if safe == (chosen, rejected))
    position = board.order(who, item).index(better)
    return board.choose(who, item.id, position, rating, label, now)
