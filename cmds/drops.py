"""l2 drops."""

from __future__ import annotations

from typing import Annotated

import typer

from cmds.console import Console
from cmds.options import Inputs, Quiet
from l2.files.errors import L2Error


def drops(
    files: Inputs = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option("--baseline", help="Results to compare with, beside those of other models in FILES."),
    ] = None,
    max_drop: Annotated[
        float, typer.Option("--max-drop", min=0.0, help="A loss that is let pass, in the metric's own unit.")
    ] = 0.0,
    quiet: Quiet = False,
) -> None:
    """Fail where the newest model of a history of results has lost what an earlier one could do.

    Each metric of the last record's model is compared with the best that another model had in the same task, by the
    same protocol. A drop is a loss of more than --max-drop, and of more than two standard errors of the difference.

    Example: l2 drops tonight.jsonl --baseline history.jsonl --max-drop 0.01
    """
    from l2.eval.history import drops as dropped
    from l2.files.jsonl import read_records

    console = Console("drops", quiet)
    results = list(read_records(files or ()))
    found = dropped(results, max_drop, read_records(baseline) if baseline else ())
    if found:
        raise L2Error("; ".join(map(str, found)))
    console.say(f"{results[-1].get('model')}: no drop")
