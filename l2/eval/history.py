"""Results over time: has the newest model lost what an earlier one could do? (ours)"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from l2.files.jsonl import Record

NOISE = 2.0  # standard errors of a difference that chance makes (about 95 %)
# How metrics begin of which less is better, and those that are neither good nor bad; a difference is no level.
LOWER_IS_BETTER = (
    "bits_per_byte", "perplexity", "toxic", "violat", "refus", "ece", "cut", "low_tail", "contaminated",
    "gamma", "loss", "unread", "brier", "calibration_error",
)  # fmt: skip
ASKED = ("task", "metric", "shots", "protocol", "task_version", "temperature", "samples", "max_new_tokens", "category",
         "length", "toxicity_by", "baseline")  # fmt: skip
UNJUDGED = (
    "words", "calls", "samples/", "self_bleu", "tie", "longer_wins", "first_wins", "alone/", "correlation/",
    "score/chosen", "score/rejected",
)  # fmt: skip


class Drop(NamedTuple):
    """A metric of the newest model that is worse than the best before: both result records."""

    best: Record
    now: Record

    def __str__(self) -> str:
        """In a sentence without its full stop."""
        return f"{self.now['task']} {self.now['metric']} went from {_shown(self.best)} to {_shown(self.now)}"


def _shown(result: Mapping[str, Any]) -> str:
    noise = "" if result.get("stderr") is None else f" ± {result['stderr']:.4f}"
    return f"{result['value']:.4f}{noise} ({result.get('model')}, {str(result.get('time'))[:10]})"


def asked_of(result: Mapping[str, Any]) -> tuple[str, ...]:
    """What has to be the same for two results to be compared."""
    return tuple(str(result.get(field)) for field in ASKED)


def _model(result: Record) -> str:
    """Which weights were measured."""
    return str(result.get("model_sha256") or result.get("model"))


def _gain(metric: str, value: float) -> float:
    """`value` with its sign turned where less is better."""
    return -value if metric.startswith(LOWER_IS_BETTER) else value


def drops(results: Sequence[Record], max_drop: float = 0.0, baseline: Iterable[Record] = ()) -> list[Drop]:
    """The newest model's metrics that are worse than the best of all other models', in the file or in `baseline`.

    Worse is by more than `max_drop`, in the metric's own unit, and by more than NOISE standard errors of the difference
    of two independent measurements: on the same items that is too wide, never too narrow. The newest model is that of
    the last record. Raises BadInput for a record without task, metric or a value that is a number or null.
    """
    newest = _model(results[-1])
    best: dict[tuple[Any, ...], Record] = {}
    now: dict[tuple[Any, ...], Record] = {}
    for result in [*baseline, *results]:
        metric, value = result.need("metric"), result.need("value", (int, float, type(None)))
        result.need("task")
        if value is None or metric.startswith(UNJUDGED) or metric.endswith("/difference"):
            continue
        asked = asked_of(result)
        if _model(result) == newest:
            now[asked] = result
        elif asked not in best or _gain(metric, value) > _gain(metric, best[asked]["value"]):
            best[asked] = result
    found = []
    for asked, result in now.items():
        if asked in best:
            lost = _gain(result["metric"], best[asked]["value"]) - _gain(result["metric"], result["value"])
            noise = NOISE * math.hypot(best[asked].get("stderr") or 0.0, result.get("stderr") or 0.0)
            if lost > max(max_drop, noise):
                found.append(Drop(best[asked], result))
    return found
