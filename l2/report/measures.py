"""What evaluations say: results beside the paper's, gains, versions, history, claims, attention, judged answers."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import hypot
from statistics import fmean
from typing import Any, NamedTuple, TypeGuard

from l2.eval.benchmarks.suite import averages
from l2.eval.history import ASKED, asked_of
from l2.eval.metrics import Estimate, mean
from l2.files.jsonl import Record
from l2.report.form import Answers, Block, Figure, Series, Table, Text, change, estimate, interval, within
from l2.report.gather import Found, Run
from l2.report.paper import BENCHMARKS, HEADLINES, MEANS, RECALLED, SIZES, benchmark

GROUP = "group/"  # begins the task of a mean over a group of Table 3, which is made here anyway
DETAIL = "/"  # in the name of a metric: metric/group
NO_PROMPT = "(nothing: a text of its own)"
SHOWN_PROMPTS, SHOWN_MODELS = 6, 6
LONGEST_ANSWER = 1200  # characters shown of an answer
LEAST_TIMES = 2  # of a measurement that is drawn over time
SETTINGS = ASKED[2:]  # behind task and metric: how it was asked


def stderr_of(row: Mapping[str, Any]) -> float | None:
    """A result's standard error, where it has one."""
    found = row.get("stderr")
    return None if found is None else float(found)


class Judged(NamedTuple):
    """What one judge thinks of one model's answers: the mean score of those to each prompt."""

    model: str
    judge: str
    scores: dict[str, float]


def judged(found: Found) -> list[Judged]:
    """The scores that answers carry, by model, judge and set of prompts; of two that are alike the last counts."""
    every: dict[tuple[str, str, frozenset[str]], Judged] = {}
    for samples in found.samples:
        scores: dict[tuple[str, str], dict[str, list[float]]] = {}
        for record in samples.records:
            for judge, value in _scores(record).items():
                of = scores.setdefault((found.model_of(record), judge), {})
                of.setdefault(record.identity, []).append(value)
        for (model, judge), prompts in scores.items():
            means = {prompt: fmean(values) for prompt, values in prompts.items()}
            every[model, judge, frozenset(means)] = Judged(model, judge, means)
    return list(every.values())


def _scores(record: Mapping[str, Any]) -> dict[str, float]:
    """The scores of an answer: `rewards` by name, and other numbers that a judge has added (gold, harm, ...)."""
    rewards = record.get("rewards")
    scores = dict(rewards) if isinstance(rewards, dict) else {}
    scores |= {name: record[name] for name in ("gold", "harm", "score") if name in record}
    return {judge: float(value) for judge, value in scores.items() if _real(value)}


class Gains:
    """What runs gained on held-out data, over runs that were measured alike."""

    def __init__(self, found: Found, answers: Sequence[Judged]) -> None:
        self.found = found
        self.results: dict[str, list[Record]] = {}  # of a model
        self.alike: dict[tuple[str, ...], dict[str, Record]] = {}  # of each model, by what was asked
        self.answers: dict[str, list[Judged]] = {}  # of a model
        for row in found.results:
            model = found.model_of(row)
            self.results.setdefault(model, []).append(row)
            self.alike.setdefault(asked_of(row), {}).setdefault(model, row)
        for one in answers:
            self.answers.setdefault(one.model, []).append(one)

    def of(self, run: Run, before: Sequence[Run]) -> list[str]:
        """What `run` gained over the first of `before` with the same measurement, as short phrases.

        Standard errors are those of independent samples; judged answers to the same prompts are compared in pairs.
        """
        phrases = []
        for row in self.results.get(run.name, ()):
            if DETAIL in row["metric"]:
                continue
            measured = self.alike[asked_of(row)]
            over = next((parent.name for parent in before if parent.name in measured), None)
            told = f"{row['task']}, {row['metric'].replace('_', ' ')}: "
            if over is None:
                phrases.append(told + estimate(row["value"], stderr_of(row)))
                continue
            then = measured[over]
            errors = [error for error in (stderr_of(row), stderr_of(then)) if error is not None]
            gained = change(row["value"] - then["value"], hypot(*errors) if len(errors) == 2 else None)
            phrases.append(f"{told}{then['value']:.3f} ({over}) → {row['value']:.3f}, {gained}")
        return phrases + [phrase for ours in self.answers.get(run.name, ()) for phrase in self._judged(ours, before)]

    def _judged(self, ours: Judged, before: Sequence[Run]) -> list[str]:
        for theirs in (one for parent in before for one in self.answers.get(parent.name, ())):
            both = sorted(ours.scores.keys() & theirs.scores.keys()) if theirs.judge == ours.judge else []
            if len(both) > 1:
                gained = mean([ours.scores[prompt] - theirs.scores[prompt] for prompt in both])
                told = change(gained.value, gained.stderr)
                return [f"{ours.judge} over {theirs.model}, all {len(both):,} prompts: {told}"]
        return []


def judged_answers(answers: Sequence[Judged], order: Sequence[Run]) -> list[Block]:
    """Mean scores of answers by model, in order of lineage, for each set of prompts that several models answered."""
    sets: dict[tuple[frozenset[str], str], list[Judged]] = {}
    for one in answers:
        sets.setdefault((frozenset(one.scores), one.judge), []).append(one)
    places = {run.name: place for place, run in enumerate(order)}
    blocks: list[Block] = []
    for (prompts, judge), of in sets.items():
        if len(of) < 2:
            continue
        of.sort(key=lambda one: places.get(one.model, len(places)))
        means = [mean(list(one.scores.values())) for one in of]
        low, high = interval([e.value for e in means], [e.stderr for e in means])
        series = Series(judge, [one.model for one in of], [e.value for e in means], low, high)
        note = f"Means over {len(prompts):,} prompts, in order of lineage; band: 95 % interval over prompts."
        blocks.append(Figure("lines", f"Answers as judged: {judge}", "model", judge, [series], note))
    return blocks


def differing(rows: Sequence[Record], same: Callable[[Record], Any]) -> list[str]:
    """The settings in which rows that are the `same` differ."""
    groups: dict[Any, list[Record]] = {}
    for row in rows:
        groups.setdefault(same(row), []).append(row)
    return [name for name in SETTINGS if any(len({str(row.get(name)) for row in of}) > 1 for of in groups.values())]


def with_settings(row: Mapping[str, Any], settings: Sequence[str]) -> str:
    """A row's `settings` as they stand behind a name."""
    return "".join(f", {name.replace('_', ' ')} {row[name]}" for name in settings if row.get(name) is not None)


def benchmarks(found: Found) -> list[Block]:
    """Results on the paper's benchmarks, in percent, beside Llama 2's; groups of Table 3 where all of one are there."""
    rows: dict[tuple[str, str], dict[str, list[Record]]] = {}
    for row in {(found.model_of(row), asked_of(row)): row for row in found.results}.values():  # of two alike the last
        known = benchmark(row["task"])
        if known and row["metric"] == HEADLINES[known[0]]:
            of_model = rows.setdefault((found.model_of(row), str(row.get("protocol") or "llama")), {})
            of_model.setdefault(known[0], []).append(row)
    table = []
    for (model, protocol), scores in rows.items():
        by = "" if protocol == "llama" else f" ({protocol})"
        values = {}
        for key, numbers in ((key, BENCHMARKS[key]) for key in BENCHMARKS if key in scores):
            apart = [name for name in differing(scores[key], lambda row: row["task"]) if name != "shots"]
            for row in scores[key]:
                shots = f"{row.get('shots') or 0} ({numbers.shots})"
                measured = _hundredfold(row["value"], stderr_of(row))
                title = f"{numbers.title}{by}{with_settings(row, apart)}"
                table.append([title, model, shots, measured, *map(str, numbers.scores)])
            # The last as the paper has it or, where none is so, the last.
            row = max(scores[key], key=lambda row: (row.get("shots") == numbers.shots, scores[key].index(row)))
            values[key] = {row["metric"]: Estimate(row["value"], stderr_of(row), 1)}
        for group, of_group in averages(values).items():
            measured = _hundredfold(of_group.value, of_group.stderr)
            table.append([f"{group} (mean){by}", model, "", measured, *map(str, MEANS[group])])
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
        models = list(dict.fromkeys(map(found.model_of, rows)))
        apart = differing(rows, lambda row: (row["metric"], found.model_of(row)))
        metrics: dict[str, dict[str, Record]] = {}
        for row in rows:  # of two that were measured alike the last counts
            metrics.setdefault(_metric(row) + with_settings(row, apart), {})[found.model_of(row)] = row
        cells = [
            [metric, *(_value(of[model]) if model in of else "–" for model in models), _counts(list(of.values()))]
            for metric, of in metrics.items()
        ]
        note = "± one standard error; in brackets a 95 % interval."
        note += f" Protocol: {'; '.join(protocols)}." if protocols else ""
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
                found.model_of,
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
    apart = differing(rows, lambda row: (row["task"], row["metric"]))
    for asked in dict.fromkeys(map(asked_of, rows)):
        same = [row for row in rows if asked_of(row) == asked]
        if len(same) < LEAST_TIMES:
            continue
        first = min(days[id(row)] for row in same)
        (line,) = _lines(same, lambda row: "", lambda row, first=first: days[id(row)] - first)  # type: ignore[misc]
        since, last = same[0]["time"][:10], same[-1]
        note = f"Newest: {last.get('model', '–')}, {last['time'][:10]}: {_value(last)}. Band: 95 % interval."
        title = f"{last['task']}: {last['metric'].replace('_', ' ')}{with_settings(last, apart)}"
        blocks.append(Figure("lines", title, f"days since {since}", "value", [line], note))
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
    """The paper's claims by subject: what was measured of each, and the verdict."""
    if not found.claims:
        return []
    verdicts = Counter(_said(claim, "verdict") for claim in found.claims)
    counts = ", ".join(f"{n} {verdict}" for verdict, n in verdicts.items())
    subjects: dict[str, list[list[str]]] = {}
    for claim in found.claims:
        cells = [_said(claim, "claim"), _said(claim, "paper"), _measured(claim), _said(claim, "verdict")]
        subjects.setdefault(str(claim.get("subject", "The paper's claims at this size")), []).append(cells)
    header = ["claim", "paper", "measured", "verdict"]
    tables = [Table(subject, header, rows) for subject, rows in subjects.items()]
    reach = " ±: the 90 % interval of the mean over seeds." if any("high" in claim for claim in found.claims) else ""
    return [Text(f"{len(found.claims)} claims: {counts}.{reach}"), *tables]


def _said(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    return "–" if value is None else value if isinstance(value, str) else f"{value:g}" if _real(value) else str(value)


def _measured(claim: Mapping[str, Any]) -> str:
    """The number with its 90 % interval, or else its standard error, and what it is of."""
    value, high, error = (claim.get(name) for name in ("measured", "high", "stderr"))
    if not _real(value):
        return _said(claim, "measured")
    number = within(value, high - value) if _real(high) else estimate(value, error if _real(error) else None)
    return number + (f" ({claim['what']})" if claim.get("what") else "")


def _real(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def answers(found: Found, order: Sequence[Run]) -> list[Block]:
    """What successive models said to the same prompts: those that the most models answered, one answer of each."""
    said: dict[str, dict[str, Record]] = {}
    every = [record for samples in found.samples for record in samples.records if isinstance(record["response"], str)]
    for record in sorted(every, key=lambda record: not _scores(record)):  # those that a judge has read first
        said.setdefault(_asked(record["prompt"]), {}).setdefault(found.model_of(record), record)
    chosen = sorted(said.items(), key=lambda pair: -len(pair[1]))[:SHOWN_PROMPTS]  # stable: the first files win
    places = {run.name: place for place, run in enumerate(order)}
    blocks: list[Block] = []
    for prompt, by_model in chosen:
        models = sorted(by_model, key=lambda name: places.get(name, len(places)))
        if (more := len(models) - 1) >= SHOWN_MODELS:  # the first, the last, and some between them
            models = [models[i * more // (SHOWN_MODELS - 1)] for i in range(SHOWN_MODELS)]
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
    parts = [f"{name} {value:.2f}" for name, value in _scores(record).items()]
    return ", ".join(parts + ["cut off"] * (record.get("finish") == "length"))
