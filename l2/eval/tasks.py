"""Tasks: files of records whose fields say what is asked, and the result records that come of them (design.md §2)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from l2.eval.metrics import Estimate
from l2.eval.pairs import measure_pairs, score_pairs
from l2.eval.sampled import (
    answer_exactly,
    ask_dates,
    ask_dialogs,
    judge_prompts,
    measure_dates,
    measure_dialogs,
    measure_exact,
    measure_prompts,
)
from l2.eval.scored import (
    measure_choices,
    measure_documents,
    score_choices,
    score_documents,
)
from l2.eval.subject import Item, Subject
from l2.files.errors import BadInput, L2Error, UsageError
from l2.files.jsonl import Record, read_records
from l2.files.manifest import sha256_records, version
from l2.files.progress import OnProgress, ignore
from l2.model.transformer import LanguageModel, ScalarModel

VERSION = 1  # of the kinds below: another prompt or another rule is another version


class Kind(NamedTuple):
    """A kind of task. `run` asks the model and gives items; `measure` makes the metrics of the items alone.

    `asks` is what the model must give: log-likelihoods, rewards or answers.
    """

    fields: tuple[str, ...]
    run: Callable[[Subject, Sequence[Record], OnProgress], list[Item]]
    measure: Callable[[Sequence[Item]], dict[str, Estimate]]
    protocol: str
    asks: str = "answers"


_SAMPLED = "temperature {temperature:g}, {tokens} new tokens, seed {seed}"
# The first kind whose fields a record has is its kind.
KINDS = {
    "multiple choice": Kind(
        ("question", "choices", "answer"), score_choices, measure_choices, "llama", "log-likelihoods"
    ),
    "preferences": Kind(("prompt", "chosen", "rejected"), score_pairs, measure_pairs, "score at EOS", "rewards"),
    "exact match": Kind(("prompt", "target"), answer_exactly, measure_exact, "greedy {form}, {tokens} new tokens"),
    "dated facts": Kind(("prompt", "answer", "date"), ask_dates, measure_dates, _SAMPLED),
    "instructions": Kind(("messages", "constraint"), ask_dialogs, measure_dialogs, _SAMPLED),
    "documents": Kind(
        ("text",), score_documents, measure_documents, "windows of {context} overlapping by half", "log-likelihoods"
    ),
    "prompts": Kind(("prompt",), judge_prompts, measure_prompts, _SAMPLED),
}


@dataclass(frozen=True)
class Task:
    """A named file of records, and their kind (a key of KINDS)."""

    name: str
    kind: str
    records: Sequence[Record]


def kind_of(record: Record) -> str:
    """The kind of task that a record belongs to. Raises BadInput, naming the fields each kind needs."""
    for name, kind in KINDS.items():
        if all(field in record for field in kind.fields):
            return name
    needs = "; ".join(f"{', '.join(kind.fields)} ({name})" for name, kind in KINDS.items())
    raise BadInput(record.where, f"fields {sorted(record)}", f"those of a task: {needs}")


def read_task(name: str, path: str) -> Task:
    """The task in a JSONL file (or a pattern of them), of the kind of its first record."""
    records = list(read_records([path]))
    return Task(name, kind_of(records[0]), records)


def check(subject: Subject, tasks: Sequence[Task]) -> None:
    """Raises UsageError for a task that `subject` can't do, before anything is run."""
    scalar = isinstance(subject.model, ScalarModel)
    for task in tasks:
        asks = KINDS[task.kind].asks
        if scalar != (asks == "rewards"):
            found, asked = ("reward", "language") if scalar else ("language", "reward")
            raise UsageError(f"{task.name} ({task.kind}) asks a {asked} model, and {subject.name} is a {found} model")
        if asks == "log-likelihoods" and not isinstance(subject.model, LanguageModel):
            can = ", ".join(name for name, kind in KINDS.items() if kind.asks == "answers")
            raise UsageError(f"{task.name} ({task.kind}) needs {asks}, and --endpoint gives answers alone: {can}")
        if task.kind == "prompts" and not subject.rewards:
            raise UsageError(f"{task.name} (prompts) needs a judge: give --rm NAME=DIR")
    if subject.attention and not isinstance(subject.model, LanguageModel):
        raise UsageError("--attention looks into a language model, which an --endpoint or a reward model is not")
    if subject.attention and not any(task.kind == "instructions" for task in tasks):
        raise UsageError("--attention is measured on dialogs under an instruction, and no task has a constraint")
    if (subject.rewards or subject.baseline) and not any(task.kind == "prompts" for task in tasks):
        raise UsageError("--rm and --baseline judge answers to prompts, and no task has prompts alone")


def run_task(subject: Subject, task: Task, on_progress: OnProgress = ignore) -> tuple[list[Item], dict[str, Estimate]]:
    """The items and the metrics of a task (see `check`). Raises L2Error where a metric is no number."""
    kind = KINDS[task.kind]
    items = kind.run(subject, task.records, on_progress)
    metrics = kind.measure(items)
    for name, estimate in metrics.items():
        if not math.isfinite(estimate.value):
            raise L2Error(f"{task.name}: {name} is {estimate.value}; the model's weights are broken")
    return [{"task": task.name, **item} for item in items], metrics


def result_records(
    subject: Subject, task: Task, metrics: Mapping[str, Estimate], sha256: str | None
) -> list[dict[str, Any]]:
    """Result records, one a metric. `sha256` is of the model, None where its weights are not here.

    task_version names our version and the records' hash. Some have an `interval` (95 %) or a `curve` of numbers, and
    all of a comparison the `baseline`.
    """
    settings = subject.sampling
    protocol = KINDS[task.kind].protocol.format(
        form="chat" if subject.chat else "raw",
        tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        seed=settings.seed,
        context=subject.model.config.max_seq_len,
    )
    common = {
        "shots": 0,
        "protocol": protocol,
        "task_version": f"{VERSION}-{sha256_records(list(task.records))[:12]}",
        "model": subject.name,
        "model_sha256": sha256,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "l2_version": version(),
    }
    results = []
    for metric, found in metrics.items():
        result = {"task": task.name, "metric": metric, "value": found.value, "stderr": found.stderr, "n": found.n}
        for name in ("interval", "curve"):
            if getattr(found, name) is not None:
                result[name] = getattr(found, name)
        if metric.startswith("win_rate") and subject.baseline is not None:
            result["baseline"] = subject.baseline[0]
        results.append(result | common)
    return results
