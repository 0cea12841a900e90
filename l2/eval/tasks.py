"""Tasks: files of records whose fields say what is asked, and the result records that come of them (design.md §2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from l2.eval.benchmarks.asking import ask_suite, check_suite
from l2.eval.benchmarks.suite import Asking, Suite, averages, measured, new_item, read_suite
from l2.eval.benchmarks.table import BENCHMARKS, GROUPS, benchmark_named
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
    answer_index,
    measure_choices,
    measure_documents,
    question_of,
    score_choices,
    score_documents,
)
from l2.eval.stamp import made, task_version
from l2.eval.subject import Item, Subject
from l2.eval.word_problems import NAMES as WORD_PROBLEMS
from l2.eval.word_problems import measure_solved, read_problems, solve
from l2.files.errors import BadInput, L2Error, UsageError
from l2.files.jsonl import Record, read_records
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
    "word problems": Kind(
        ("problem", "number"), solve, measure_solved, "greedy {form}, calculator, {tokens} new tokens"
    ),
    "dated facts": Kind(("prompt", "answer", "date"), ask_dates, measure_dates, _SAMPLED),
    "instructions": Kind(("messages", "constraint"), ask_dialogs, measure_dialogs, _SAMPLED),
    "documents": Kind(
        ("text",), score_documents, measure_documents, "windows of {context} overlapping by half", "log-likelihoods"
    ),
    "prompts": Kind(("prompt",), judge_prompts, measure_prompts, _SAMPLED),
}


@dataclass(frozen=True)
class Task:
    """A named file of records, and their kind (a key of KINDS), or a benchmark, whose kind is "benchmark"."""

    name: str
    kind: str
    records: Sequence[Record] = ()
    suite: Suite | None = None

    def rules(self) -> Kind:
        """How it is run and measured."""
        suite = self.suite
        if suite is None:
            return KINDS[self.kind]
        asks = "log-likelihoods" if suite.rule.choose else "answers"
        measure = partial(measured, macro=suite.macro)
        return Kind((), lambda subject, _, on_progress: ask_suite(subject, suite, on_progress), measure,
                    suite.protocol, asks)  # fmt: skip


def kind_of(record: Record) -> str:
    """The kind of task that a record belongs to. Raises BadInput, naming the fields each kind needs."""
    for name, kind in KINDS.items():
        if all(field in record for field in kind.fields):
            return name
    needs = "; ".join(f"{', '.join(kind.fields)} ({name})" for name, kind in KINDS.items())
    raise BadInput(record.where, f"fields {sorted(record)}", f"those of a task: {needs}")


def read_task(name: str, path: str, asking: Asking | None = None) -> Task:
    """The benchmark that `name` names, of the files at `path`, asked as `asking` says; or the task in a JSONL file (or
    a pattern of them), of the kind of its first record.
    """
    benchmark = benchmark_named(name)
    if benchmark:
        return Task(benchmark, "benchmark", suite=read_suite(benchmark, path, asking or Asking()))
    records = list(read_problems(path) if name in WORD_PROBLEMS else read_records([path]))
    return Task(name, kind_of(records[0]), records)


def task_samples(name: str, path: str) -> list[Record]:
    """What a task asks, each question with its right answer and without examples, as `l2 contam` reads samples."""
    task = read_task(name, path, Asking(shots=0))
    if task.suite:
        asked = [
            Record(new_item(i, question), question.record.where) for i, question in enumerate(task.suite.questions)
        ]
    else:
        asked = [Record({"id": r.identity, **_said(r, task.kind)}, r.where) for r in task.records]
    return [Record({"task": task.name, **sample}, sample.where) for sample in asked]


def _said(record: Record, kind: str) -> dict[str, Any]:
    """Prompt and right answer of a record of that kind."""
    if kind == "multiple choice":
        return {"prompt": question_of(record), "options": record["choices"], "right": [answer_index(record)]}
    prompt, target = {
        "documents": ("text", ""),
        "instructions": ("messages", ""),
        "word problems": ("problem", ""),
        "preferences": ("prompt", "chosen"),
        "dated facts": ("prompt", "answer"),
    }.get(kind, ("prompt", "target"))
    return {"prompt": record[prompt], "target": record.get(target)}


def check(subject: Subject, tasks: Sequence[Task]) -> None:
    """Raises UsageError for a task that `subject` can't do, before anything is run."""
    scalar = isinstance(subject.model, ScalarModel)
    for task in tasks:
        asks = task.rules().asks
        if scalar != (asks == "rewards"):
            found, asked = ("reward", "language") if scalar else ("language", "reward")
            raise UsageError(f"{task.name} ({task.kind}) asks a {asked} model, and {subject.name} is a {found} model")
        if asks == "log-likelihoods" and not isinstance(subject.model, LanguageModel):
            can = "some benchmarks, " + ", ".join(name for name, kind in KINDS.items() if kind.asks == "answers")
            raise UsageError(f"{task.name} ({task.kind}) needs {asks}, and --endpoint gives answers alone: {can}")
        if task.suite:
            check_suite(subject, task.suite)
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
    kind = task.rules()
    items = kind.run(subject, task.records, on_progress)
    metrics = kind.measure(items)
    for name, estimate in metrics.items():
        if not math.isfinite(estimate.value):
            raise L2Error(f"{task.name}: {name} is {estimate.value}; the model's weights are broken")
    return [{"task": task.name, "kind": task.kind, **item} for item in items], metrics


def settings_of(subject: Subject, task: Task, sha256: str | None) -> dict[str, Any]:
    """What results and items say of the model and of the task. `sha256` is of the model, None where it isn't here.

    task_version names our version and the records' hash.
    """
    suite, sampling = task.suite, subject.sampling
    if suite:
        protocol, shots, of_task = suite.protocol, suite.shots, suite.version
    else:
        protocol = KINDS[task.kind].protocol.format(
            form="chat" if subject.chat else "raw",
            tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            seed=sampling.seed,
            context=subject.model.config.max_seq_len,
        )
        shots, of_task = 0, task_version(VERSION, task.records)
    settings: dict[str, Any] = {"shots": shots, "protocol": protocol, "task_version": of_task}
    if suite and suite.rule.judge:
        rule = suite.rule
        settings |= {"temperature": rule.temperature, "samples": suite.samples, "max_new_tokens": rule.tokens}
        settings |= {"seed": sampling.seed} if rule.temperature else {}
        settings |= {"toxicity_by": subject.toxicity_by} if rule.toxic else {}
    return settings | {"model": subject.name, "model_sha256": sha256}


def result_records(
    task: str,
    metrics: Mapping[str, Estimate],
    settings: Mapping[str, Any],
    items: Sequence[Item] = (),
) -> list[dict[str, Any]]:
    """Result records, one a metric; `settings` as of `settings_of`, `items` are what was measured.

    Some have an `interval` (95 %) or a `curve` of numbers, and win rates the `baseline` of the items. `cut` is the
    number of questions whose prompts were too long for the model and lost their beginning.
    """
    common = {**settings, **made()}
    cut = sum(item.get("cut", 0) > 0 for item in items)
    common |= {"cut": cut} if cut else {}
    beaten = items[0].get("baseline") if items else None
    results = []
    for metric, found in metrics.items():
        result = {"task": task, "metric": metric, "value": found.value, "stderr": found.stderr, "n": found.n, **common}
        for name in ("interval", "curve"):
            if getattr(found, name) is not None:
                result[name] = getattr(found, name)
        if metric.startswith("win_rate") and beaten is not None:
            result["baseline"] = beaten.get("model")
        results.append(result)
    return results


AVERAGED = ("protocol", "model", "model_sha256")


def group_records(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Result records of Table 3's groups, of which every part is among `results` of benchmarks of one model."""
    values: dict[str, dict[str, Estimate]] = {}
    for result in results:
        if result["task"] in BENCHMARKS:
            estimate = Estimate(result["value"], result["stderr"], result["n"])
            values.setdefault(result["task"], {})[result["metric"]] = estimate
    records = []
    for group, estimate in averages(values).items():
        parts = [result for result in results if result["task"] in GROUPS[group]]
        shared = {field: parts[0][field] for field in AVERAGED}
        records += result_records(f"group/{group}", {"average": estimate}, {"parts": list(GROUPS[group]), **shared})
    return records
