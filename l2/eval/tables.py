"""Metrics as a table for people: a group a row, a metric a column."""

from __future__ import annotations

from collections.abc import Mapping

from l2.eval.metrics import Estimate
from l2.files.columns import aligned, plain


def shown(estimate: Estimate) -> str:
    """A value with its interval or, without one, its standard error."""
    if estimate.interval is not None:
        return f"{estimate.value:.3f} [{estimate.interval[0]:.2f}, {estimate.interval[1]:.2f}]"
    return f"{estimate.value:.3f}" + ("" if estimate.stderr is None else f" ± {estimate.stderr:.3f}")


def metric_table(metrics: Mapping[str, Estimate]) -> str:
    """`metrics` {"metric/group": estimate} in rows by group; metrics of everything alone have a line each below."""
    parts = {name: name.partition("/")[::2] for name in metrics}
    grouped = {metric for metric, group in parts.values() if group} or {metric for metric, _ in parts.values()}
    columns = list(dict.fromkeys(metric for metric, _ in parts.values() if metric in grouped))
    rows = [["", "n", *columns]]
    for group in dict.fromkeys(group for metric, group in parts.values() if metric in grouped):
        cells = [metrics.get(f"{metric}/{group}" if group else metric) for metric in columns]
        n = max(cell.n for cell in cells if cell is not None)
        rows.append([plain(group) or "all", f"{n:,}", *("-" if cell is None else shown(cell) for cell in cells)])
    alone = [[name, f"{each.n:,}", shown(each)] for name, each in metrics.items() if parts[name][0] not in grouped]
    return aligned(rows) + ("\n" + aligned(alone) if alone else "")
