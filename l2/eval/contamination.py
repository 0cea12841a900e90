"""How much of an evaluation stands in the training data, and whether that helped (paper §A.6, Table 51)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from l2.eval.stamp import made, task_version
from l2.files.errors import BadInput, UsageError
from l2.files.jsonl import Record
from l2.files.progress import OnProgress, ignore
from l2.tokens.shards import Shard
from l2.tokens.suffixes import joined, longest_matches
from l2.tokens.tokenizer import Tokenizer

VERSION = 1  # of the rules below
LENGTHS = (10, 20, 30, 40, 50)  # a match is longer than that many tokens (paper §A.6: the sweep over L)
CLEAN, DIRTY = 0.2, 0.8  # contaminated share of a sample's tokens (paper §A.6)
SIGNIFICANT = 2.0  # |Z| beyond which a subset differs (paper §A.6)
SUBSETS = ("clean", "not clean", "not dirty", "dirty")

Floats = npt.NDArray[np.float64]


class Subset(NamedTuple):
    """A row of Table 51: the mean contaminated share, how many samples, their mean score, what is expected, and Z.

    Without results the last three are None.
    """

    share: float | None
    n: int
    value: float | None
    expected: float | None
    z: float | None


def covered(longest: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.bool_]:
    """Which tokens lie in a match longer than `length`; mismatches within one count as well.

    longest: [T], for each token of the texts how long the longest match is that begins there.
    """
    starts = np.flatnonzero(longest > length)
    steps = np.zeros(len(longest) + 1, np.int64)
    np.add.at(steps, starts, 1)
    np.subtract.at(steps, starts + longest[starts], 1)
    return steps[:-1].cumsum() > 0


def shares(
    rows: Sequence[Sequence[int]],
    shards: Sequence[Shard],
    kept: Path | None = None,
    on_progress: OnProgress = ignore,
) -> dict[int, Floats]:
    """The contaminated share of each row of ids, by the length that a match has to pass; 0 for a row without ids."""
    longest = longest_matches(joined(rows), shards, kept, on_progress)
    sizes = np.array([len(row) for row in rows])
    bounds = np.concatenate([[0], sizes.cumsum()])
    found = {}
    for length in LENGTHS:
        sums = np.concatenate([[0], covered(longest, length).cumsum()])
        found[length] = np.diff(sums[bounds]) / np.maximum(sizes, 1)
    return found


def subsets(share_N: Floats, score_N: Floats | None) -> dict[str, Subset]:
    """The four overlapping subsets of samples, each against the sampling distribution of as many (Table 51).

    Z = (X̄ - μ) / (σ / √n), with μ and σ of all samples: for scores 0 and 1, σ is √(p(1 - p)). It is None for a
    subset without samples, and where all samples score the same. Without scores only shares are told.
    """
    chosen = (share_N < CLEAN, share_N >= CLEAN, share_N < DIRTY, share_N >= DIRTY)
    found = {}
    for name, of in zip(SUBSETS, chosen, strict=True):
        n = int(of.sum())
        share = float(share_N[of].mean()) if n else None
        if score_N is None:
            found[name] = Subset(share, n, None, None, None)
            continue
        expected, deviation = float(score_N.mean()), float(score_N.std())
        value = float(score_N[of].mean()) if n else None
        z = None if value is None or deviation == 0 else (value - expected) / (deviation / math.sqrt(n))
        found[name] = Subset(share, n, value, expected, z)
    return found


def affected(found: Mapping[str, Subset]) -> bool:
    """Whether contamination helped: |Z| > 2 in all four, below where it is clean or not dirty, above otherwise."""
    signs = (-1, 1, -1, 1)
    zs = [found[name].z for name in SUBSETS]
    return all(z is not None and sign * z > SIGNIFICANT for sign, z in zip(signs, zs, strict=True))


class Contaminated(NamedTuple):
    """A task: the metric (None without results), its items with their shares, and its subsets by length."""

    task: str
    metric: str | None
    items: list[dict[str, Any]]
    tables: dict[int, dict[str, Subset]]

    @property
    def affected_to(self) -> int | None:
        """The largest length at which the task seems affected (paper §A.6)."""
        return max((length for length, table in self.tables.items() if affected(table)), default=None)


def verbalised(record: Record) -> str:
    """All that a sample says: its `prompt`, a text or messages, and the right answer, where it has one.

    That is `target` or the first of them, the first of `targets`, or the first of `options` that is `right`. Raises
    BadInput where the prompt is neither.
    """
    prompt = record.need("prompt", (str, list))
    if isinstance(prompt, list):
        if not all(isinstance(turn, dict) and isinstance(turn.get("content"), str) for turn in prompt):
            raise BadInput(record.where, f"a prompt {prompt!r:.60}", "a text, or messages with their contents")
        prompt = "\n".join(turn["content"] for turn in prompt)
    target, options = record.get("target"), record.get("options")
    options = options if isinstance(options, list) else []
    right = [options[i] for i in _list(record, "right") if i in range(len(options))]
    answers = [*right, *_list(record, "targets"), *(target if isinstance(target, list) else [target])]
    answer = next((answer for answer in answers if isinstance(answer, str)), None)
    return prompt if answer is None else f"{prompt} {answer}"


def _list(record: Record, field: str) -> list[Any]:
    """A field that is a list, or none at all. Raises BadInput for anything else."""
    found: list[Any] | None = record.need(field, (list, type(None))) if field in record else None
    return found or []


def _results(records: Sequence[Record], metric: str | None) -> tuple[str | None, Floats | None]:
    """The metric and the samples' results by it, None where not one has any: a field, or one of `scores`.

    Without a metric it is `correct`, or the first of the scores. Raises BadInput where only some have it.
    """
    for record in records:
        if record.get("scores") is not None:
            record.need("scores", dict)
    found = [Record({**record, **(record.get("scores") or {})}, record.where) for record in records]
    if metric is None:
        metric = "correct" if "correct" in found[0] else next(iter(records[0].get("scores") or {}), "correct")
    if not any(metric in record for record in found):
        return None, None
    return metric, np.array([float(record.need(metric, (bool, int, float))) for record in found])


def measure_contamination(
    records: Sequence[Record],
    shards: Sequence[Shard],
    tokenizer: Tokenizer,
    metric: str | None = None,
    kept: Path | None = None,
    on_progress: OnProgress = ignore,
) -> list[Contaminated]:
    """Each task among `records` (samples with prompt, task and result, see `_results`) against the shards.

    Raises BadInput for a record without a prompt, and where some of a task's records have no result; UsageError where
    none of any has a result by `metric`.
    """
    scores = {task: _results(of, metric) for task, of in _by_task(records).items()}
    if metric is not None and all(found is None for found, _ in scores.values()):
        raise UsageError(f"no sample has the metric {metric!r}, as a field or among its scores")
    rows = tokenizer.encode_batch([verbalised(record) for record in records])
    found = shares(rows, shards, kept, on_progress)
    items = [
        Record(record | {"tokens": len(row), "contaminated": {str(n): float(found[n][i]) for n in LENGTHS}})
        for i, (record, row) in enumerate(zip(records, rows, strict=True))
    ]
    results = []
    for task, of in _by_task(items).items():
        measured, known = scores[task]
        share = {n: np.array([item["contaminated"][str(n)] for item in of]) for n in LENGTHS}
        results.append(Contaminated(task, measured, list(of), {n: subsets(share[n], known) for n in LENGTHS}))
    return results


def _by_task(records: Sequence[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(str(record.get("task", "samples")), []).append(record)
    return found


def contamination_records(found: Sequence[Contaminated], inputs: Sequence[Record]) -> list[dict[str, Any]]:
    """Result records: the mean share by length, and the four subsets of each: their scores or, without results, what
    share of the samples they are.
    """
    common = {
        "protocol": "token runs, 4 mismatches",
        "task_version": task_version(VERSION, inputs),
        **made(),
    }
    results: list[dict[str, Any]] = []
    for task, metric, items, tables in found:
        model = items[0].get("model")
        for length in LENGTHS:
            mean = float(np.mean([item["contaminated"][str(length)] for item in items]))
            row = {"task": task, "metric": "contaminated", "length": length, "value": mean, "stderr": None}
            results.append(row | {"n": len(items), "model": model} | common)
            for name, subset in tables[length].items():
                value = subset.n / len(items) if metric is None else subset.value
                results.append(
                    {"task": task, "metric": f"{metric or 'samples'}/{name}", "length": length, "value": value}
                    | {"stderr": None, "n": subset.n, "contaminated": subset.share}
                    | {"expected": subset.expected, "z": subset.z, "model": model}
                    | common
                )
    return results
