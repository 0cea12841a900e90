"""The health of preference data: its size and make-up, pairs that repeat or contradict, what annotators lean to.

Paper Tables 6 and 26, Figure 25, §3.2.1. One pass; in memory are two hashes a pair.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson
import xxhash

from l2.align.losses import RATINGS
from l2.align.preferences import SAFE, conversation
from l2.eval.metrics import wilson
from l2.files.errors import BadInput
from l2.files.jsonl import OnBad, Record
from l2.files.progress import OnProgress, ignore
from l2.tokens.chat import messages_of

FIRST = ("chosen", "rejected")  # values of `first`: which answer was shown first
SIZES = ("turns", "example", "prompt", "response")
EXAMPLES = 5  # places named of each trouble

Key = int | str | None
Report = dict[str, Any]


class Health:
    """Counts preferences; `report` tells of them. `size` is the length of a text, in tokens or words."""

    def __init__(self, size: Callable[[str], int]) -> None:
        self.size = size
        self.sums: dict[str, dict[Key, dict[str, float]]] = {"source": {}, "batch": {}, "all": {}}
        self.ratings: dict[Key, Counter[str]] = {}
        self.safety: Counter[str] = Counter()
        self.leanings: dict[Key, Counter[str]] = {}
        self.trouble: dict[str, list[str]] = {"duplicate": [], "contradictory": [], "equal": []}
        self._seen: set[bytes] = set()

    def add(self, record: Record) -> None:
        """Count one preference. Raises BadInput for what is none, before anything of it is counted."""
        chosen, rejected = conversation(record, "chosen"), conversation(record, "rejected")
        named: dict[str, Key] = {
            field: None if record.get(field) is None else record.need(field, (int, str))
            for field in ("source", "batch", "annotator")
        }
        rating, safety, first = (
            None if record.get(field) is None else record.need(field) for field in ("rating", "safety", "first")
        )
        for field, value, known in ("rating", rating, RATINGS), ("first", first, FIRST):
            if value is not None and value not in known:
                raise BadInput(record.where, f"{field} {value!r}", f"one of {', '.join(known)}")
        sizes = self._sizes(record, chosen, rejected)
        for field, keys in self.sums.items():
            row = keys.setdefault(named.get(field), dict.fromkeys(sizes, 0.0))
            for name, value in sizes.items():
                row[name] += value
        if rating is not None:
            self.ratings.setdefault(named["batch"], Counter())[rating] += 1
        if safety is not None:
            self.safety[safety] += 1
        self._lean(named["annotator"], self.size(chosen[-1]["content"]), self.size(rejected[-1]["content"]), first)
        self._compare(record.where, *(_digest(messages) for messages in (chosen, rejected)))

    def _sizes(self, record: Record, chosen: Sequence[Any], rejected: Sequence[Any]) -> dict[str, float]:
        """What a row of Table 6 adds up: an example is the dialog with one answer, a prompt one user message of it.

        Answers count as the mean of the two, user messages as that of all (ours: the table doesn't say).
        """
        users = [self.size(m["content"]) for m in messages_of(record, "prompt") if m["role"] == "user"]
        whole = sum(self.size(message["content"]) for both in (chosen, rejected) for message in both) / 2
        answers = [self.size(both[-1]["content"]) for both in (chosen, rejected)]
        prompt = sum(users) / max(1, len(users))
        return {"comparisons": 1, "turns": len(users), "example": whole, "prompt": prompt, "response": sum(answers) / 2}

    def _lean(self, annotator: Key, chosen: int, rejected: int, first: str | None) -> None:
        mine = self.leanings.setdefault(annotator, Counter())
        mine["pairs"] += 1
        mine["unequal"] += chosen != rejected
        mine["longer"] += chosen > rejected
        mine["placed"] += first is not None
        mine["first"] += first == "chosen"

    def _compare(self, where: str, chosen: bytes, rejected: bytes) -> None:
        if chosen == rejected:
            self.trouble["equal"].append(where)
        elif chosen + rejected in self._seen:
            self.trouble["duplicate"].append(where)
        else:
            if rejected + chosen in self._seen:
                self.trouble["contradictory"].append(where)
            self._seen.add(chosen + rejected)

    def report(self, unit: str) -> Report:
        """Everything that was counted; shares have a standard error and a 95 % interval (Wilson)."""
        ((_, everything),) = self.sums["all"].items()
        pairs = int(everything["comparisons"])
        whole = sum(self.leanings.values(), Counter[str]())
        safety = self.safety
        return {
            "comparisons": pairs,
            "unit": unit,
            "all": _row(everything),
            "sources": {str(key): _row(sums) for key, sums in _named(self.sums["source"])},
            "batches": {str(key): _row(sums) for key, sums in _named(self.sums["batch"])},
            "ratings": self._ratings(),
            "safety": {
                label: _share(safety[label], safety.total()) for label in [*SAFE, *sorted(set(safety) - set(SAFE))]
            }
            if safety
            else None,
            **{
                name: {"count": len(places), **_share(len(places), pairs), "where": places[:EXAMPLES]}
                for name, places in self.trouble.items()
            },
            "leanings": _leaning(whole),
            "annotators": {str(key): _leaning(counts) for key, counts in _named(self.leanings)},
        }

    def _ratings(self) -> Report | None:
        if not self.ratings:
            return None
        total = sum(self.ratings.values(), Counter[str]())
        batches = dict(_named(self.ratings))
        found: Report = {"all": {rating: _share(total[rating], total.total()) for rating in RATINGS}}
        found["batches"] = {
            str(batch): {rating: _share(counts[rating], counts.total()) for rating in RATINGS}
            for batch, counts in batches.items()
        }
        in_order = [counts for batch, counts in batches.items() if batch != "none"]
        sizes = [counts.total() for counts in in_order]
        found["drift_z"] = {rating: trend([counts[rating] for counts in in_order], sizes) for rating in RATINGS}
        return found


def preference_report(
    records: Iterable[Record],
    size: Callable[[str], int],
    unit: str,
    on_bad: OnBad | None = None,
    on_progress: OnProgress = ignore,
) -> Report:
    """The report of `records`, see `Health`.

    Raises BadInput for a bad record (or hands it to `on_bad`), and where none is good.
    """
    health, where = Health(size), "preferences"
    for done, record in enumerate(records, 1):
        try:
            health.add(record)
        except BadInput as error:
            if on_bad is None:
                raise
            where = record.where
            on_bad(error)
        on_progress(done, None, "")
    if not health.sums["all"]:
        raise BadInput(where, "no preference that can be read", "at least one {prompt, chosen, rejected}")
    return health.report(unit)


def trend(counts: Sequence[int], sizes: Sequence[int]) -> float | None:
    """Cochran and Armitage's Z of a share `counts` / `sizes` over batches 0, 1, 2...: above 0 it rises.

    Beyond 2 either way, chance is no good reason. None for fewer than two batches, and where the share is 0 or 1.
    """
    if len(sizes) < 2:
        return None
    total, p = sum(sizes), sum(counts) / sum(sizes)
    middle = sum(i * n for i, n in enumerate(sizes)) / total
    spread = p * (1 - p) * math.fsum(n * (i - middle) ** 2 for i, n in enumerate(sizes))
    slope = math.fsum((i - middle) * count for i, count in enumerate(counts))
    return slope / math.sqrt(spread) if spread > 0 else None


def _digest(messages: Sequence[Mapping[str, Any]]) -> bytes:
    return xxhash.xxh3_128_digest(orjson.dumps([(message["role"], message["content"]) for message in messages]))


def _named(rows: Mapping[Key, Any]) -> list[tuple[Key, Any]]:
    """Rows in order, numbers before texts; none where no record has the field."""
    if set(rows) == {None}:
        return []
    return sorted(((("none" if key is None else key), row) for key, row in rows.items()), key=_order)


def _order(row: tuple[Key, Any]) -> tuple[bool, Any]:
    """Batches 2 and "2" before 10 before "x"."""
    key = row[0]
    number = isinstance(key, int) or str(key).isdecimal()
    return not number, int(str(key)) if number else str(key)


def _row(sums: Mapping[str, float]) -> Report:
    return {"comparisons": int(sums["comparisons"])} | {name: sums[name] / sums["comparisons"] for name in SIZES}


def _share(count: int, of: int) -> Report:
    p = count / of
    stderr = math.sqrt(p * (1 - p) / (of - 1)) if of > 1 else None
    return {"count": count, "share": p, "stderr": stderr, "interval": wilson(count, of)}


def _leaning(counts: Counter[str]) -> Report:
    """How often the longer answer, and the one shown first, was chosen; None where nothing tells."""
    return {
        "pairs": counts["pairs"],
        "chose_longer": _share(counts["longer"], counts["unequal"]) if counts["unequal"] else None,
        "chose_first": _share(counts["first"], counts["placed"]) if counts["placed"] else None,
    }
