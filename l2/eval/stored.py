"""Stored items, judged again without the model, and two runs compared question by question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from l2.eval.benchmarks.suite import PROTOCOLS, judged, measured
from l2.eval.benchmarks.table import BENCHMARKS
from l2.eval.metrics import Estimate, clustered
from l2.eval.tasks import KINDS
from l2.files.errors import BadInput, UsageError
from l2.files.jsonl import Record, read_records

Item = dict[str, Any]
# What an item says of the run it came of: so that items alone make result records.
RUN = ("shots", "protocol", "task_version", "temperature", "samples", "max_new_tokens", "seed", "toxicity_by", "model",
       "model_sha256")  # fmt: skip


def stored_items(path: str) -> dict[str, list[Record]]:
    """The items of a file that `l2 evaluate --samples` wrote, by task. Raises BadInput for anything else."""
    tasks: dict[str, list[Record]] = {}
    for record in read_records([path], required=["task", "kind", "protocol", "model"]):
        record.need("kind")
        of_task = tasks.setdefault(record.need("task"), [])
        of_task.append(record)
        for field in ("kind", "protocol", "model", "model_sha256", "task_version"):
            if record.get(field) != of_task[0].get(field):
                raise BadInput(record.where, f"{field} {record.get(field)!r:.60} after {of_task[0].get(field)!r:.60}",
                               "items of one run of each task")  # fmt: skip
    return tasks


def settings_in(item: Mapping[str, Any]) -> dict[str, Any]:
    """What an item says of its run."""
    return {field: item[field] for field in RUN if field in item}


def rescored(path: str) -> Iterator[tuple[str, list[Item], dict[str, Estimate]]]:
    """(task, items, metrics) of stored items: answers to benchmarks are judged again, by today's rules."""
    for task, items in stored_items(path).items():
        kind = items[0]["kind"]
        if kind == "benchmark" and task in BENCHMARKS:
            protocol = items[0]["protocol"]
            rule = getattr(BENCHMARKS[task], protocol) if protocol in PROTOCOLS else None
            if rule is None:
                raise BadInput(items[0].where, f"protocol {protocol!r:.40}", "one that the benchmark has")
            again = []
            for item in items:
                with _foreign(item.where):
                    again.append(judged(rule, dict(item)))
            with _foreign(path):
                metrics = measured(again, macro=BENCHMARKS[task].macro)
            yield task, again, metrics
        elif kind in KINDS:
            with _foreign(path):
                metrics = KINDS[kind].measure(items)
            yield task, list(items), metrics
        else:
            raise BadInput(items[0].where, f"task {task!r:.40} of kind {kind!r:.40}", "one that l2 evaluate has")


@contextmanager
def _foreign(where: str) -> Iterator[None]:
    """Items that another program wrote may lack anything, or hold it in another shape: BadInput instead."""
    try:
        yield
    except KeyError as error:
        raise BadInput(where, f"an item without {error}", "all that its judge needs") from None
    except (IndexError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise BadInput(where, f"an item of another shape ({error})", "one that l2 evaluate --samples wrote") from None


def differences(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
    """Mean of each score of `ours` less that of `theirs`, over the same questions, clustered as they are.

    Pairing takes out what makes questions hard for both (Miller 2024, arXiv 2411.00640, section 4). Questions of one
    id, as preferences of one prompt, are paired in their order. Raises UsageError for runs over other questions.
    Nothing where questions have no score each, as documents.
    """
    task = ours[0]["task"]
    mine, other = _by_question(ours), _by_question(theirs)
    if set(mine) != set(other) or ours[0].get("task_version") != theirs[0].get("task_version"):
        raise UsageError(f"{task}: the two runs were asked other questions, or in another way")
    first = next(iter(mine))
    metrics = [metric for metric in scores_of(mine[first]) if metric in scores_of(other[first])]
    with _foreign(task):
        return {
            f"{metric}/difference": clustered(
                [scores_of(item)[metric] - scores_of(other[question])[metric] for question, item in mine.items()],
                [item.get("cluster", str(item["id"])) for item in mine.values()],
            )
            for metric in metrics
        }


def _by_question(items: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, int], Mapping[str, Any]]:
    """Items by their id, and which of the items of that id each is."""
    met: Counter[Any] = Counter()
    found = {}
    for item in items:
        found[item.get("id"), met[item.get("id")]] = item
        met[item.get("id")] += 1
    return found


def scores_of(item: Mapping[str, Any]) -> dict[str, float]:
    """The scores of an item: of a benchmark by their names, of a task of one's own whether it is correct."""
    scores = item.get("scores", {"correct": item["correct"]} if "correct" in item else {})
    return dict(scores) if isinstance(scores, dict) else {}
