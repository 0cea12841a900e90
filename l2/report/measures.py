"""What evaluations say: results beside the paper's, gains, versions, history, claims, attention, judged answers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from math import hypot
from pathlib import Path
from typing import Any, NamedTuple

from l2.eval.benchmarks.suite import averages
from l2.eval.metrics import Estimate, mean
from l2.files.jsonl import Record
from l2.report.form import Answers, Block, Figure, Series, Table, Text, change, estimate, interval
from l2.report.gather import Found, Run, Samples
from l2.report.paper import BENCHMARKS, HEADLINES, MEANS, RECALLED, SIZES, benchmark

GROUP = "group/"  # begins the task of a mean over a group of Table 3, which is made here anyway
DETAIL = "/"  # in the name of a metric: metric/group
NO_PROMPT = "(nothing: a text of its own)"
SHOWN_PROMPTS, SHOWN_MODELS = 6, 6
LONGEST_ANSWER = 1200  # characters shown of an answer
LEAST_TIMES = 2  # of a measurement that is drawn over time


def stderr_of(row: Mapping[str, Any]) -> float | None:
    """A result's standard error, where it has one."""
    found = row.get("stderr")
    return None if found is None else float(found)


def model_of(row: Record, runs: Sequence[Run]) -> str:
    """The run that a result or a sample is of: by the hash of its weights, or else by the name that it gives.

    A name is a path as seen from where the command ran: first that of the file, then those above it. What is no run's
    stays as it is.
    """
    if sha256 := row.get("model_sha256"):
        for run in runs:
            if run.sha256 == sha256:
                return run.name
    file = Path(row.where.rpartition(":")[0]).resolve()
    named = str(row.get("model") or file.parent)  # what a training drew lies in its own directory
    for place in (above / named for above in file.parents):
        for run in runs:
            if run.dir.resolve() == place:
                return run.name
    return named if row.get("model") else "–"


def namer(runs: Sequence[Run]) -> Callable[[Record], str]:
    """`model_of`, which asks the file system once for each file and name."""
    known: dict[tuple[str, str, str], str] = {}

    def named(row: Record) -> str:
        key = row.where.rpartition(":")[0], str(row.get("model")), str(row.get("model_sha256"))
        if key not in known:
            known[key] = model_of(row, runs)
        return known[key]

    return named


def gains(run: Run, before: Sequence[Run], found: Found) -> list[str]:
    """What `run` gained on held-out data over the first of `before` with the same measurement, as short phrases.

    Standard errors are those of independent samples; judged answers to the same prompts are compared in pairs.
    """
    phrases = []
    own = [row for row in found.results if model_of(row, found.runs) == run.name and DETAIL not in row["metric"]]
    for row in own:
        same = [other for other in found.results if _what(other) == _what(row)]
        parent = _nearest(same, before, found.runs)
        told = f"{row['task']}, {row['metric'].replace('_', ' ')}: "
        if parent is None:
            phrases.append(told + estimate(row["value"], stderr_of(row)))
            continue
        errors = [error for error in (stderr_of(row), stderr_of(parent)) if error is not None]
        error = hypot(*errors) if len(errors) == 2 else None
        gained = change(row["value"] - parent["value"], error)
        over = model_of(parent, found.runs)
        phrases.append(f"{told}{parent['value']:.3f} ({over}) → {row['value']:.3f}, {gained}")
    return phrases + _judged_gains(run, before, found)


def _what(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What two results must have in common to be compared."""
    return tuple(row.get(name) for name in ("task", "metric", "protocol", "task_version", "shots"))


def _nearest(rows: Sequence[Record], before: Sequence[Run], runs: Sequence[Run]) -> Record | None:
    for parent in before:
        for row in rows:
            if model_of(row, runs) == parent.name:
                return row
    return None


class Judged(NamedTuple):
    """Scores of one model's answers in one file: {judge: {prompt: mean score of its answers}}."""

    file: str
    model: str
    scores: dict[str, dict[str, float]]


def judged(samples: Samples, runs: Sequence[Run]) -> list[Judged]:
    """The scores that answers carry: `rewards` by name, and other numbers that a judge has added (gold, harm, ...)."""
    models: dict[str, dict[str, dict[str, list[float]]]] = {}
    named = namer(runs)
    for record in samples.records:
        rewards = record.get("rewards")
        scores = dict(rewards) if isinstance(rewards, dict) else {}
        scores |= {name: record[name] for name in ("gold", "harm", "score") if name in record}
        for judge, value in scores.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                prompts = models.setdefault(named(record), {}).setdefault(judge, {})
                prompts.setdefault(record.identity, []).append(float(value))
    return [
        Judged(
            samples.path.name,
            model,
            {judge: {prompt: mean(values).value for prompt, values in of.items()} for judge, of in judges.items()},
        )
        for model, judges in models.items()
    ]


def _judged_gains(run: Run, before: Sequence[Run], found: Found) -> list[str]:
    every = [one for samples in found.samples for one in judged(samples, found.runs)]
    phrases = []
    for ours in (one for one in every if one.model == run.name):
        for judge, scores in ours.scores.items():
            theirs = (one for parent in before for one in every if one.model == parent.name)
            pairs = ((one.model, one.scores[judge]) for one in theirs if judge in one.scores)
            for model, other in pairs:
                both = sorted(scores.keys() & other.keys())
                if len(both) > 1:
                    gained = mean([scores[prompt] - other[prompt] for prompt in both])
                    phrases.append(f"{judge} over {model}: {change(gained.value, gained.stderr)}")
                    break
    return phrases


def judged_answers(found: Found, order: Sequence[Run]) -> list[Block]:
    """Mean scores of answers by model, in order of lineage, for each set of prompts that several models answered."""
    sets: dict[tuple[frozenset[str], str], list[tuple[str, Estimate]]] = {}
    for one in (one for samples in found.samples for one in judged(samples, found.runs)):
        for judge, scores in one.scores.items():
            sets.setdefault((frozenset(scores), judge), []).append((one.model, mean(list(scores.values()))))
    places = {run.name: place for place, run in enumerate(order)}
    blocks: list[Block] = []
    for (prompts, judge), rows in sets.items():
        rows.sort(key=lambda row: places.get(row[0], len(places)))
        if len({model for model, _ in rows}) < 2:
            continue
        low, high = interval([e.value for _, e in rows], [e.stderr for _, e in rows])
        series = Series(judge, [model for model, _ in rows], [e.value for _, e in rows], low, high)
        note = f"Means over {len(prompts):,} prompts, in order of lineage; band: 95 % interval over prompts."
        blocks.append(Figure("lines", f"Answers as judged: {judge}", "model", judge, [series], note))
    return blocks


def benchmarks(found: Found) -> list[Block]:
    """Results on the paper's benchmarks, in percent, beside Llama 2's; groups of Table 3 where all of one are there."""
    rows: dict[str, dict[str, Record]] = {}
    for row in found.results:
        known = benchmark(row["task"])
        if known and row["metric"] == HEADLINES[known[0]]:  # of two that were measured alike the last counts
            rows.setdefault(model_of(row, found.runs), {})[known[0]] = row
    table = []
    for model, scores in rows.items():
        for key, numbers in BENCHMARKS.items():
            if key in scores:
                row = scores[key]
                shots = f"{row.get('shots', 0)} ({numbers.shots})"
                measured = _hundredfold(row["value"], stderr_of(row))
                table.append([numbers.title, model, shots, measured, *map(str, numbers.scores)])
        values = {key: {row["metric"]: Estimate(row["value"], stderr_of(row), 1)} for key, row in scores.items()}
        for group, of_group in averages(values).items():
            measured = _hundredfold(of_group.value, of_group.stderr)
            table.append([f"{group} (mean)", model, "", measured, *map(str, MEANS[group])])
    if not table:
        return []
    header = ["benchmark", "model", "shots (paper)", "measured", *(f"Llama 2 {size}" for size in SIZES)]
    note = (
        "In percent, by the name of the task; ± one standard error. Means by group as in Table 3, whose Math of 7B and "
        "13B is GSM8K alone."
    )
    return [Table("The paper's benchmarks", header, table, note)]


def _hundredfold(value: float, stderr: float | None) -> str:
    return f"{100 * value:.1f}" + ("" if stderr is None else f" ± {100 * stderr:.1f}")


def results(found: Found) -> list[Block]:
    """All other results: a table for each task, a metric a row and a model a column."""
    tasks: dict[str, list[Record]] = {}
    for row in found.results:
        known = benchmark(row["task"])
        if not (known and row["metric"] == HEADLINES[known[0]]) and not row["task"].startswith(GROUP):
            tasks.setdefault(row["task"], []).append(row)
    blocks: list[Block] = []
    for task, rows in tasks.items():
        protocols = list(dict.fromkeys(str(row["protocol"]) for row in rows if row.get("protocol")))
        models = list(dict.fromkeys(model_of(row, found.runs) for row in rows))
        metrics: dict[str, dict[str, Record]] = {}
        for row in rows:  # of two that were measured alike the last counts
            metrics.setdefault(_metric(row), {})[model_of(row, found.runs)] = row
        cells = [
            [metric, *(_value(of[model]) if model in of else "–" for model in models), _counts(list(of.values()))]
            for metric, of in metrics.items()
        ]
        note = f"± one standard error. Protocol: {'; '.join(protocols)}." if protocols else "± one standard error."
        blocks.append(Table(task, ["metric", *models, "n"], cells, note))
    return blocks


def _counts(rows: Sequence[Mapping[str, Any]]) -> str:
    """Of how many items the results are; several numbers where they are of unlike many."""
    counts = dict.fromkeys(row["n"] for row in rows if isinstance(row.get("n"), int))
    return " / ".join(f"{n:,}" for n in counts) or "–"


def _metric(row: Mapping[str, Any]) -> str:
    plain = str(row["metric"]).replace("_", " ").replace(DETAIL, ", ")
    return re.sub(r"\bturn(\d+)$", r"turn \1", plain)


def _value(row: Mapping[str, Any]) -> str:
    ends = row.get("interval")
    if isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, (int, float)) for end in ends):
        return f"{row['value']:.3f} [{ends[0]:.3f}, {ends[1]:.3f}]"
    return estimate(row["value"], stderr_of(row))


def _lines(
    rows: Sequence[Record],
    name_of: Callable[[Record], str],
    x_of: Callable[[Record], Any],
) -> list[Series]:
    """A line for each name, its points in the order of x; of two at one place the last counts."""
    lines: dict[str, dict[Any, Record]] = {}
    for row in rows:
        lines.setdefault(name_of(row), {})[x_of(row)] = row
    series = []
    for name, points in lines.items():
        xs = sorted(points) if all(isinstance(x, (int, float)) for x in points) else list(points)
        ys = [float(points[x]["value"]) for x in xs]
        low, high = interval(ys, [stderr_of(points[x]) for x in xs])
        series.append(Series(name, xs, ys, low, high))
    return series


def over_turns(found: Found) -> list[Block]:
    """Figure 10 and Table 30: attention to the instruction, and answers that obey it, over the turns of a dialog."""
    blocks: list[Block] = []
    for metric, title, unit in (
        ("attention", "Attention to the instruction", "largest weight, mean over an answer"),
        ("obeyed", "Answers that obey the instruction", "share"),
    ):
        start = f"{metric}/turn"
        rows = [row for row in found.results if row["metric"].startswith(start)]
        rows = [row for row in rows if row["metric"].removeprefix(start).isdecimal()]
        for task in dict.fromkeys(row["task"] for row in rows):
            of_task = [row for row in rows if row["task"] == task]
            series = _lines(
                of_task,
                lambda row: model_of(row, found.runs),
                lambda row, start=start: float(row["metric"].removeprefix(start)),  # type: ignore[misc]
            )
            note = "The instruction stands in the first turn alone (paper §3.3). Band: 95 % interval."
            if metric == "obeyed":
                recalled = ", ".join(f"{turn}: {a:.0%} and {b:.0%}" for turn, (a, b) in RECALLED.items())
                note += f" Paper, Table 30, by turn, without and with Ghost Attention: {recalled}."
            blocks.append(Figure("lines", f"{title} ({task})", "turn", unit, series, note))
    return blocks


def over_versions(found: Found) -> list[Block]:
    """Figure 11: each metric of results that name their `version`, version by version."""
    rows = [row for row in found.results if isinstance(row.get("version"), str)]
    blocks: list[Block] = []
    for task in dict.fromkeys(row["task"] for row in rows):
        of_task = [row for row in rows if row["task"] == task and DETAIL not in row["metric"]]
        series = _lines(of_task, lambda row: str(row["metric"]).replace("_", " "), lambda row: row["version"])
        if series:
            blocks.append(Figure("lines", f"Versions: {task}", "version", "value", series, "Band: 95 % interval."))
    return blocks


def over_time(found: Found) -> list[Block]:
    """What nightly evaluations appended to a history file, over the days since the first."""
    days = {id(row): day for row in found.history if (day := _day(row)) is not None}
    rows = [row for row in found.history if id(row) in days and DETAIL not in row["metric"]]
    blocks: list[Block] = []
    for what in dict.fromkeys((row["task"], row["metric"]) for row in rows):
        same = [row for row in rows if (row["task"], row["metric"]) == what]
        if len(same) < LEAST_TIMES:
            continue
        first = min(days[id(row)] for row in same)
        series = _lines(same, lambda row: "value", lambda row, first=first: days[id(row)] - first)  # type: ignore[misc]
        since, last = same[0]["time"][:10], same[-1]
        note = f"Newest: {last.get('model', '–')}, {last['time'][:10]}: {_value(last)}. Band: 95 % interval."
        named = [Series("", one.x, one.y, one.low, one.high) for one in series]
        title = f"{what[0]}: {what[1].replace('_', ' ')}"
        blocks.append(Figure("lines", title, f"days since {since}", "value", named, note))
    return blocks


def _day(row: Mapping[str, Any]) -> float | None:
    """Days since 1970 of a row's time, None where it has none."""
    try:
        moment = time.strptime(str(row.get("time")), "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        return None
    from calendar import timegm

    return timegm(moment) / 86400


def claims(found: Found) -> list[Block]:
    """The paper's claims, what was measured of each, and the verdict."""
    if not found.claims:
        return []
    rows = [[_said(row, "claim"), _said(row, "paper"), _measured(row), _said(row, "verdict")] for row in found.claims]
    counts = ", ".join(
        f"{sum(row[-1] == verdict for row in rows)} {verdict}" for verdict in dict.fromkeys(row[-1] for row in rows)
    )
    header = ["claim", "paper", "measured", "verdict"]
    return [Text(f"{len(rows)} claims: {counts}."), Table("The paper's claims at this size", header, rows)]


def _said(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    return "–" if value is None else value if isinstance(value, str) else f"{value:g}" if _real(value) else str(value)


def _measured(row: Mapping[str, Any]) -> str:
    value, error = row.get("measured"), row.get("stderr")
    if not _real(value):
        return _said(row, "measured")
    assert isinstance(value, (int, float))
    return estimate(value, float(error) if _real(error) and error is not None else None)


def _real(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def answers(found: Found, order: Sequence[Run]) -> list[Block]:
    """What successive models said to the same prompts: those that the most models answered, one answer of each."""
    said: dict[str, dict[str, Record]] = {}
    named = namer(found.runs)
    for samples in found.samples:
        for record in samples.records:
            if isinstance(record["response"], str):
                said.setdefault(_asked(record["prompt"]), {}).setdefault(named(record), record)
    chosen = sorted(said.items(), key=lambda pair: -len(pair[1]))[:SHOWN_PROMPTS]  # stable: the first files win
    places = {run.name: place for place, run in enumerate(order)}
    blocks: list[Block] = []
    for prompt, by_model in chosen:
        models = sorted(by_model, key=lambda name: places.get(name, len(places)))[:SHOWN_MODELS]
        blocks.append(
            Answers(
                prompt or NO_PROMPT,
                [(name, _cut(by_model[name]["response"]), _word(by_model[name])) for name in models],
            )
        )
    return blocks


def _asked(prompt: Any) -> str:
    """A prompt as a text: the messages of a dialog under one another."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list):
        return "\n".join(f"{m.get('role')}: {m.get('content')}" for m in prompt if isinstance(m, dict))
    return str(prompt)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_ANSWER else text[:LONGEST_ANSWER] + " …"


def _word(record: Mapping[str, Any]) -> str:
    """The scores of an answer, and whether it was cut off."""
    rewards = record.get("rewards")
    scores = dict(rewards) if isinstance(rewards, dict) else {}
    scores |= {name: record[name] for name in ("gold", "harm") if name in record}
    parts = [f"{name} {value:.2f}" for name, value in scores.items() if _real(value)]
    return ", ".join(parts + ["cut off"] * (record.get("finish") == "length"))
