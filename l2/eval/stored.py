"""Stored items, judged again without the model, and two runs compared question by question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from l2.eval.benchmarks.suite import judged, measured
from l2.eval.benchmarks.table import BENCHMARKS
from l2.eval.metrics import Estimate, clustered
from l2.eval.tasks import KINDS
from l2.files.errors import BadInput, UsageError
from l2.files.jsonl import Record, read_records

Item = dict[str, Any]
# What an item says of the run it came of: so that items alone make result records.
RUN = ("shots", "protocol", "task_version", "temperature", "samples", "max_new_tokens", "seed", "model", "model_sha256")


def stored_items(path: str) -> dict[str, list[Record]]:
    """The items of a file that `l2 evaluate --samples` wrote, by task. Raises BadInput for anything else."""
    tasks: dict[str, list[Record]] = {}
    for record in read_records([path], required=["task", "kind", "protocol", "model"]):
        tasks.setdefault(record.need("task"), []).append(record)
    return tasks


def settings_in(item: Mapping[str, Any]) -> dict[str, Any]:
    """What an item says of its run."""
    return {field: item[field] for field in RUN if field in item}


def rescored(path: str) -> Iterator[tuple[str, list[Item], dict[str, Estimate]]]:
    """(task, items, metrics) of stored items: answers to benchmarks are judged again, by today's rules."""
    for task, items in stored_items(path).items():
        kind = items[0]["kind"]
        if kind == "benchmark" and task in BENCHMARKS:
            rule = getattr(BENCHMARKS[task], items[0]["protocol"], None)
            if rule is None:
                raise BadInput(items[0].where, f"protocol {items[0]['protocol']!r:.40}", "one that the benchmark has")
            again = [_judged(rule, item) for item in items]
            yield task, again, measured(again, macro=BENCHMARKS[task].macro)
        elif kind in KINDS:
            yield task, list(items), KINDS[kind].measure(items)
        else:
            raise BadInput(items[0].where, f"task {task!r:.40} of kind {kind!r:.40}", "one that l2 evaluate has")


def _judged(rule: Any, item: Record) -> Item:
    try:
        return judged(rule, dict(item))
    except (KeyError, IndexError, TypeError) as error:
        raise BadInput(item.where, f"an item without {error}", "all that its judge needs") from None


def differences(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
    """Mean of each score of `ours` less that of `theirs`, over the same questions, clustered as they are.

    Pairing takes out what makes questions hard for both (Miller 2024, arXiv 2411.00640, section 4). Raises UsageError
    for runs over other questions.
    """
    other = {item["id"]: item for item in theirs}
    if "scores" not in ours[0] or "scores" not in theirs[0]:
        return {}
    if set(other) != {item["id"] for item in ours} or ours[0]["task_version"] != theirs[0]["task_version"]:
        raise UsageError(f"{ours[0]['task']}: the two runs were asked other questions, or in another way")
    return {
        f"{metric}/difference": clustered(
            [item["scores"][metric] - other[item["id"]]["scores"][metric] for item in ours],
            [item["cluster"] for item in ours],
        )
        for metric in ours[0]["scores"]
        if metric in theirs[0]["scores"]
    }
