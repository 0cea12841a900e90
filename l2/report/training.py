"""What the logs of training say: curves, use of the machine, energy and carbon."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from l2.report.form import HELD_OUT, Block, Figure, Series, Table, Values, compact, duration
from l2.report.gather import Run
from l2.report.paper import CARBON
from l2.train.meter import GRAMS_PER_KWH, PUE, carbon

POINTS = 60  # of a curve, at most; each is the mean of several steps (ours)
LEAST = 10  # steps, below which nothing is averaged
TOGETHER = 4  # runs in a figure, at most
TAIL = 0.1  # of the steps of a point lie below its band, and as many above

# Stage, what is drawn over what, and how it is called. {} is the unit of the axis.
CURVES = (
    ("pretrain", "tokens", "loss", "Pretraining: loss", "nats a token"),
    ("sft", "step", "loss", "Fine-tuning: loss", "nats a learned token"),
    ("rm-train", "step", "loss", "Reward models: ranking loss", "nats a pair"),
    ("rm-train", "step", "accuracy", "Reward models: pairs ranked right", "share"),
    ("ppo", "step", "reward", "PPO: reward, gated", "raw score"),
    ("ppo", "step", "helpful", "PPO: helpfulness model", "raw score"),
    ("ppo", "step", "safe", "PPO: safety model", "raw score"),
    ("ppo", "step", "kl", "PPO: KL to the reference", "nats an answer"),
    ("ppo", "step", "entropy", "PPO: entropy", "nats a token"),
    ("ppo", "step", "length", "PPO: length of answers", "tokens"),
)


def thinned(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float], list[float], list[float], int]:
    """At most POINTS points: means of as many neighbours each, and the 10th and 90th percentile among them.

    x, y, low, high, and how many neighbours make a point. The mean of a few is no curve, so 1 leaves all as it is.
    """
    size = max(1, -(-len(x) // POINTS)) if len(x) > POINTS else max(1, len(x) // LEAST) if len(x) > 4 * LEAST else 1
    groups = [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]
    ends = [(sorted(ys)[int(TAIL * len(ys))], sorted(ys)[-1 - int(TAIL * len(ys))]) for _, ys in groups]
    return (
        [sum(xs) / len(xs) for xs, _ in groups],
        [sum(ys) / len(ys) for _, ys in groups],
        [low for low, _ in ends] if size > 1 else [],
        [high for _, high in ends] if size > 1 else [],
        size,
    )


def curves(runs: Sequence[Run]) -> list[Block]:
    """A figure for each of CURVES that some run has; held-out values are lines of their own."""
    figures: list[Block] = []
    for (stage, over, metric, title, unit), place, some in _panels(runs):
        series, sizes = [], set[int]()
        for run in some:
            x, y = run.log.points(over, metric)
            if len(x) > 1:
                *points, size = thinned(x, y)
                sizes.add(size)
                series.append(Series(run.name, *points))
            x, y = run.log.points(over, f"val_{metric}")
            if x:
                series.append(Series(run.name + HELD_OUT, x, y))
        if series:
            title = f"{title} ({place})" if place else title
            unit_x = over if over == "tokens" else "iterations" if stage == "ppo" else "steps"
            figures.append(Figure("lines", title, unit_x, unit, series, _note(sizes)))
    return figures


def _panels(runs: Sequence[Run]) -> Iterator[tuple[tuple[str, str, str, str, str], str, Sequence[Run]]]:
    """Each of CURVES with the runs that one figure shows: those of a directory by themselves where they are many."""
    for curve in CURVES:
        ours = [run for run in runs if run.stage == curve[0] and len(run.log.points(curve[1], curve[2])[0])]
        places = {str(Path(run.name).parent) for run in ours} if len(ours) > TOGETHER else set()
        if not places:
            yield curve, "", ours
        for place in sorted(places):
            there = [run for run in ours if str(Path(run.name).parent) == place]
            for i in range(0, len(there), TOGETHER):
                yield curve, place.removeprefix("."), there[i : i + TOGETHER]


def _note(sizes: set[int]) -> str:
    several = sorted(size for size in sizes if size > 1)
    if not several:
        return ""
    *others, last = map(str, several)
    counts = f"{', '.join(others)} or {last}" if others else last
    return f"Each point is the mean of {counts} steps; the band spans the 10th to the 90th percentile among them."


def held_out(runs: Sequence[Run]) -> list[Block]:
    """The newest held-out values by source, of trainings that validate on several."""
    rows = []
    for run in runs:
        sources: dict[str, dict[str, float]] = {}
        for name, column in run.log.columns.items():
            metric, slash, source = name.removeprefix("val_").partition("/")
            if name.startswith("val_") and slash:
                sources.setdefault(source, {})[metric] = column[-1]
        for source, values in sources.items():
            told = ", ".join(f"{metric.replace('_', ' ')} {value:.4f}" for metric, value in values.items())
            rows.append([run.name, source, told])
    return [Table("Held-out data by source", ["run", "source", "newest"], rows)] if rows else []


def events(runs: Sequence[Run]) -> list[Block]:
    """A table of what a log warns of: when first, when last, how often."""
    rows = []
    for run in runs:
        seen: dict[str, list[int]] = {}
        for step, text in run.log.events:
            seen.setdefault(_gist(text), []).append(step)
        for gist, steps in seen.items():
            first = next(text for _, text in run.log.events if _gist(text) == gist)
            when = str(steps[0]) if len(steps) == 1 else f"{steps[0]} to {steps[-1]}, {len(steps)} times"
            rows.append([run.name, when, first])
    note = "Of what came several times, the first wording."
    return [Table("What the logs warn of", ["run", "step", "warning"], rows, note)] if rows else []


def _gist(text: str) -> str:
    """A warning without its numbers."""
    return "".join(sign for sign in text if not sign.isdigit())


def _typical(run: Run, name: str) -> float | None:
    values = run.log.columns.get(name)
    return median(values) if values else None


def machine(runs: Sequence[Run]) -> list[Block]:
    """MFU, and a table of speed: tokens a second and MFU by both formulas, against which peak."""
    rows, used = [], list[tuple[str, list[float]]]()
    for run in runs:
        speed = _typical(run, "tokens_per_s")
        if speed is None:
            continue
        honest, common, peak = _typical(run, "mfu"), _typical(run, "mfu_common"), run.number("peak_flops")
        rows.append(
            [
                run.name,
                f"{run.manifest.get('ranks', 1)} × {run.manifest.get('device', '?')}",
                str(run.manifest.get("settings", {}).get("dtype", "")),
                f"{speed:,.0f}",
                _percent(honest),
                _percent(common),
                f"{peak / 1e12:.2f}" if peak else "–",
            ]
        )
        _, shares = run.log.points("step", "mfu")
        if shares:
            used.append((run.name, sorted(100 * share for share in shares)))
    if not rows:
        return []
    header = ["run", "device", "dtype", "tokens/s", "MFU", "MFU, common", "peak, TFLOP/s"]
    over = any((_typical(run, "mfu") or 0) > 1 for run in runs)
    note = (
        "Medians over the steps. MFU counts 6 FLOPs a weight and token without the embedding lookup, and causal "
        "attention once; the common formula counts both in full. The peak is that of a large matrix product, measured "
        "when the run began" + ("; an MFU above 100 % means that something else ran just then." if over else ".")
    )
    blocks: list[Block] = [Table("Speed", header, rows, note)]
    if used:
        names, values = zip(*used, strict=True)
        low, high = (
            [each[int(TAIL * len(each))] for each in values],
            [each[-1 - int(TAIL * len(each))] for each in values],
        )
        series = Series("MFU", names, [median(each) for each in values], low, high)
        note = "Medians over the steps; whiskers from the 10th to the 90th percentile."
        blocks.insert(0, Figure("bars", "Model FLOPs utilisation", "run", "MFU, %", [series], note))
    return blocks


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def footprint(runs: Sequence[Run]) -> list[Block]:
    """The paper's Table 2 for these runs: device hours, watts, energy, carbon; below them the paper's own rows."""
    rows, hours, joules = [], 0.0, 0.0
    for run in runs:
        seconds, spent = run.number("seconds") or 0.0, run.number("joules")
        devices = int(run.number("ranks") or 1)
        hours += devices * seconds / 3600
        if not seconds:
            continue
        if spent is None:
            rows.append([run.name, f"{devices * seconds / 3600:.4f}", "–", "–", "–", "not measured"])
            continue
        joules += spent
        watts = f"{spent / seconds / devices:,.0f}"
        kind = str(run.manifest.get("energy", "so far"))
        rows.append([run.name, f"{devices * seconds / 3600:.4f}", watts, _kwh(spent), _grams(carbon(spent)), kind])
    if not rows:
        return []
    rows.append(["All of these", f"{hours:.4f}", "", _kwh(joules), _grams(carbon(joules)), ""])
    for size, (gpu_hours, watts_each, tonnes) in CARBON.items():
        energy = gpu_hours * watts_each * 3600.0
        rows.append([f"Llama 2 {size} (paper)", f"{gpu_hours:,}", str(watts_each), _kwh(energy), f"{tonnes:.2f} t", ""])
    header = ["", "device hours", "W", "kWh", "CO₂eq", "energy by"]
    note = (
        f"CO₂eq = energy × {PUE} (the data centre's PUE) × {GRAMS_PER_KWH:g} g/kWh, the paper's formula. An estimate "
        "counts a fixed power for each device while it runs; nvml and rapl are the devices' own meters."
    )
    return [Table("Carbon footprint, as in the paper's Table 2", header, rows, note)]


def _kwh(joules: float) -> str:
    kwh = joules / 3.6e6
    return f"{kwh:,.0f}" if kwh >= 100 else f"{kwh:.4f}"


def _grams(grams: float) -> str:
    return f"{grams / 1e6:,.2f} t" if grams >= 1e6 else f"{grams / 1e3:,.2f} kg" if grams >= 1e3 else f"{grams:.2f} g"


def did(run: Run) -> str:
    """What a run did, in a few words."""
    parts = [f"{run.steps:,} {'iterations' if run.stage == 'ppo' else 'steps'}"]
    if tokens := run.number("tokens"):
        parts.append(f"{compact(tokens)} tokens")
    if seconds := run.number("seconds"):
        parts.append(duration(seconds))
    if not run.finished:
        parts.append("not finished")
    return ", ".join(parts)


def ends(values: Values) -> str:
    """The first and the last value of a curve."""
    known = [value for value in values if value is not None]
    return f"{known[0]:.3f} → {known[-1]:.3f}" if len(known) > 1 else ""


def learned(run: Run) -> str:
    """How the loss, or the reward of PPO, went from its first steps to its last."""
    metric = "reward" if run.stage == "ppo" else "loss"
    x, y = run.log.points("step", metric)
    held_out = run.log.points("step", f"val_{metric}")[1]
    told = f"{metric} {ends(thinned(x, y)[1])}" if len(x) > 1 else ""
    return told + (f", held out {held_out[-1]:.3f}" if told and held_out else "")
