"""Curves that commands leave in forms of their own, as figures: best of N, versions, what a reward model is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from typing import Any

from l2.files.errors import BadInput
from l2.files.jsonl import Record
from l2.report.form import Figure, read_figure

Fields = Mapping[str, Any]


def _series(name: str, x: Any, y: Any, stderr: Any = None) -> dict[str, Any]:
    return {"name": name, "x": x, "y": y} | ({} if stderr is None else {"stderr": stderr})


def best_of(fields: Fields, where: str) -> list[Figure]:
    """Figures 7 and 8, of `l2 rs-sample --curve`: the reward of the best and of the median answer of N.

    One temperature shows both, several show the best of each. Raises BadInput for what is no such curve.
    """
    try:
        curves = fields["curves"]
        if len(curves) == 1:
            (curve,) = curves
            title = "Best of N"
            series = [_series(of, curve["n"], curve[of], curve[f"{of}_stderr"]) for of in ("max", "median")]
        else:
            title = "Best of N, by temperature"
            series = [_series(f"T {c['temperature']:g}", c["n"], c["max"], c["max_stderr"]) for c in curves]
        note = f"{fields['prompts']} prompts; {fields['score']}. Band: 95 % interval."
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(where, f"a curve without {error}", "one of l2 rs-sample --curve") from None
    return [read_figure({"kind": "lines", "title": title, "x": "N", "y": "R", "note": note, "series": series}, where)]


def versions(rows: Sequence[Any], where: str) -> list[Figure]:
    """Figure 11, of shell/iterate.sh: every measure of each version, {"version": name, measure: {mean, stderr}}.

    Win rates stand in one figure. Raises BadInput for what are no versions.
    """
    try:
        names = [row["version"] for row in rows]
        measures = list(dict.fromkeys(name for row in rows for name, of in row.items() if isinstance(of, dict)))
        means = {name: [(row.get(name) or {}).get("mean") for row in rows] for name in measures}
        errors = {name: [(row.get(name) or {}).get("stderr") for row in rows] for name in measures}
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput(where, f"versions without {error}", "a list of {version, measure: {mean, stderr}}") from None
    figures: dict[str, list[dict[str, Any]]] = {}
    for name in measures:
        title = f"win rate over {names[0]}" if name.startswith("wins") else name
        figures.setdefault(title, []).append(_series(name.replace("_", " "), names, means[name], errors[name]))
    return [
        read_figure(
            {"kind": "lines", "title": f"Versions: {title}", "x": "version", "y": title, "series": series}
            | {"note": "Band: 95 % interval over prompts."},
            where,
        )
        for title, series in figures.items()
    ]


def reward_models(results: Sequence[Record], model_of: Callable[[Record], str]) -> list[Figure]:
    """Score histograms (Figure 27) and the reliability of reward models, of results that carry such a `curve`.

    Raises BadInput for a curve that is neither.
    """
    histograms: dict[tuple[str, str], list[dict[str, Any]]] = {}
    figures = []
    for row in results:
        curve = row.get("curve")
        if not isinstance(curve, dict):
            continue
        about = (str(row["task"]), model_of(row))
        if curve.keys() >= {"edges", "counts"}:
            name = row["metric"].rpartition("/")[2]
            histograms.setdefault(about, []).append(_series(name, curve["edges"], curve["counts"]))
        elif curve.keys() >= {"sure", "right", "n"}:
            figures.append(_reliability(curve, about, row.where))
        else:
            raise BadInput(row.where, f"a curve of {sorted(curve)}", "edges and counts; or sure, right and n")
    for (task, model), series in histograms.items():
        title = f"Scores of {model} ({task})"
        drawn = {"kind": "histogram", "title": title, "x": "σ(score)", "y": "answers", "series": series}
        figures.append(read_figure(drawn, results[0].where))
    return figures


def _reliability(curve: Fields, about: tuple[str, str], where: str) -> Figure:
    """How often a reward model is right, by how sure it is; a model that knows is on the diagonal."""
    try:
        errors = [
            sqrt(p * (1 - p) / (n - 1)) if n > 1 else None for p, n in zip(curve["right"], curve["n"], strict=True)
        ]
        series = [_series(about[1], curve["sure"], curve["right"], errors), _series("as sure", [0.5, 1.0], [0.5, 1.0])]
    except (TypeError, ValueError) as error:
        raise BadInput(where, f"a curve ({error})", "numbers: sure, right and n") from None
    title = f"Reliability of {about[1]} ({about[0]})"
    drawn = {"kind": "lines", "title": title, "x": "σ(|r₁ − r₂|)", "y": "share of pairs ranked right", "series": series}
    return read_figure(drawn, where)
