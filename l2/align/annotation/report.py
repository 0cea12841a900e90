"""What judgements tell of those who gave them: agreement, attention, habits (paper §3.2.1, §3.4.2)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

import numpy as np

from l2.align.annotation.board import Event
from l2.align.losses import RATINGS
from l2.align.preferences import SAFE

# A judgement as one of eight steps, from "the second is significantly better" to "the first is".
STEPS = 2 * len(RATINGS)


def step(better: int, rating: str) -> int:
    """Where a choice stands on the scale of STEPS, 0 to 7."""
    distance = len(RATINGS) - RATINGS.index(rating)  # negligibly 1, significantly 4
    return len(RATINGS) - 1 + distance if better == 0 else len(RATINGS) - distance


def gwet(counts_IK: np.ndarray, *, ordered: bool = False) -> float | None:
    """Gwet's agreement of raters beyond chance: AC1 or, `ordered`, AC2 with quadratic weights (Gwet 2014, ch. 3 and 6).

    counts_IK: how many raters put item i into category k. Items of one rating count for the shares of the categories
    alone. None where no item has two.
    """
    raters_I = counts_IK.sum(1)
    several_I = raters_I >= 2
    if not several_I.any():
        return None
    q = counts_IK.shape[1]
    k = np.arange(q)
    weights_KK = 1.0 - (k[:, None] - k[None, :]) ** 2 / (q - 1) ** 2 if ordered else np.eye(q)
    counts, raters = counts_IK[several_I], raters_I[several_I]
    agreed = (counts * (counts @ weights_KK - 1)).sum(1) / (raters * (raters - 1))
    rated_I = raters_I > 0
    shares_K = (counts_IK[rated_I] / raters_I[rated_I, None]).mean(0)
    chance = weights_KK.sum() / (q * (q - 1)) * (shares_K * (1 - shares_K)).sum()
    return float((agreed.mean() - chance) / (1 - chance))


def _table(judged: Sequence[Event], categories: int, category: Any) -> np.ndarray:
    rows: dict[str, Counter[int]] = defaultdict(Counter)
    for event in judged:
        rows[event["item"]][category(event)] += 1
    return np.array([[row[k] for k in range(categories)] for row in rows.values()], dtype=float)


def agreement(judged: Sequence[Event]) -> dict[str, Any]:
    """How far people agree on items that several judged: which answer, how much better, and what is safe."""
    several = Counter(event["item"] for event in judged)
    which = _table(judged, 2, lambda event: event["better"])
    pairs = (which * (which - 1)).sum() / 2 if judged else 0.0
    of = sum(n * (n - 1) / 2 for n in several.values())
    found = {"items": sum(n > 1 for n in several.values()), "same_choice": pairs / of if of else None}
    if not of:
        return found
    found["choice_ac1"] = gwet(which)
    found["strength_ac2"] = gwet(
        _table(judged, STEPS, lambda event: step(event["better"], event["rating"])), ordered=True
    )
    labelled = [event for event in judged if event.get("safety")]
    if labelled:
        found["safety_ac1"] = gwet(_table(labelled, len(SAFE), lambda event: list(SAFE).index(event["safety"])))
    return found


def _shares(values: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    counts = Counter(values)
    return {name: counts[name] / len(values) for name in names} if values else {}


def _person(events: Sequence[Event]) -> dict[str, Any]:
    judged = [event for event in events if "record" in event]
    checks = [event["passed"] for event in events if "passed" in event]
    lengths = [len(event["record"]["chosen"]) - len(event["record"]["rejected"]) for event in judged]
    unequal = [length > 0 for length in lengths if length]
    return {
        "judgements": len(judged),
        "seconds": median(event["seconds"] for event in events),
        "left": fmean(event["left"] for event in events),
        "longer": fmean(unequal) if unequal else None,
        "checks": len(checks),
        "passed": sum(checks),
    }


def report(events: Sequence[Event]) -> dict[str, Any]:
    """The figures of events that count (`desk.live`): of all, by model, and of each person.

    `left` is the share of choices of the answer shown left, `longer` of those of the longer answer: people without
    such habits are near 0.5 in the first. `won` counts, for each model, how often its answer was chosen over another's.
    """
    choices = [event for event in events if event["event"] == "choice"]
    judged = [event for event in choices if "record" in event]
    people: dict[str, list[Event]] = defaultdict(list)
    for event in choices:
        people[event["who"]].append(event)
    won: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for event in judged:
        models = event["record"]["models"]
        if models["chosen"] != models["rejected"]:
            for side in ("chosen", "rejected"):
                won[str(models[side])][side == "rejected"] += 1
    return {
        "judgements": len(judged),
        "items": len({event["item"] for event in judged}),
        "skipped": sum(event["event"] == "skip" for event in events),
        "ratings": _shares([event["rating"] for event in judged], RATINGS),
        "safety": _shares([event["safety"] for event in judged if event.get("safety")], list(SAFE)),
        "won": {model: {"won": w, "lost": lost} for model, (w, lost) in sorted(won.items())},
        "agreement": agreement(judged),
        "people": {who: _person(mine) for who, mine in sorted(people.items())},
    }


def report_lines(found: dict[str, Any]) -> list[str]:
    """`report` in sentences, one a line."""
    lines = [f"{found['judgements']:,} judgements of {found['items']:,} items, {found['skipped']:,} skipped"]
    for name in ("ratings", "safety"):
        if found[name]:
            lines.append(f"{name}: " + ", ".join(f"{word} {share:.0%}" for word, share in found[name].items()))
    for model, games in found["won"].items():
        lines.append(f"{model}: {games['won']:,} won, {games['lost']:,} lost")
    agreed = found["agreement"]
    if agreed["items"]:
        lines.append(
            f"{agreed['items']:,} items judged by several: the same choice {agreed['same_choice']:.0%} of the time"
            f" (AC1 {agreed['choice_ac1']:.2f}), strength AC2 {agreed['strength_ac2']:.2f}"
            + (f", safety AC1 {agreed['safety_ac1']:.2f}" if "safety_ac1" in agreed else "")
        )
    for who, person in found["people"].items():
        longer = "" if person["longer"] is None else f", the longer answer {person['longer']:.0%}"
        checks = f", attention checks {person['passed']} of {person['checks']}" if person["checks"] else ""
        lines.append(
            f"{who}: {person['judgements']:,} judgements, {person['seconds']:.0f} s each (median),"
            f" left {person['left']:.0%}{longer}{checks}"
        )
    return lines
