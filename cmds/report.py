"""l2 report."""

from __future__ import annotations

from typing import Annotated

import typer

from cmds.console import Console
from cmds.options import Quiet
from l2.files.errors import UsageError


def report(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="DIR", help="Run directories, with all below them, and files of results."),
    ] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="HTML page; - is stdout.", show_default=False)
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Print the same for a terminal.")] = False,
    card: Annotated[
        str | None,
        typer.Option(
            "--card",
            metavar="CHECKPOINT",
            show_default=False,
            help="Write a model card (paper Table 52) into this checkpoint, as README.md.",
        ),
    ] = None,
    figures: Annotated[
        str | None,
        typer.Option("--figures", metavar="DIR", show_default=False, help="Write each figure there as NAME.svg."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a README.md that --card did not write, or that was changed.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Tell what runs and evaluations say: the story, curves, energy and carbon, results, claims, answers, lineage.

    Reads manifests, logs and results wherever they lie below DIR, also while a training runs. The page is one file
    without scripts that opens anywhere. Results in files named history*.jsonl are drawn over time; those with a
    `version`, version by version; a {"figure": ...} of any command as it says (l2/report/form.py). What could not be
    read is named on stderr and on the page.

    Example: l2 report runs/quickstart/seed-0 -o report.html --card runs/quickstart/seed-0/gatt
    """
    import sys
    from pathlib import Path

    from l2.files.atomic import write_atomic
    from l2.report.card import write_card
    from l2.report.gather import gather
    from l2.report.page import pictures, render
    from l2.report.story import tell
    from l2.report.terminal import show

    if not paths:
        raise UsageError("name a run directory, or files of results")
    if output is None and not text and card is None and figures is None:
        raise UsageError("say what to make: -o report.html, --text, --card CHECKPOINT or --figures DIR")
    console = Console("report", quiet)
    found = gather(paths)
    told = tell(found, paths)
    for problem in told.problems:
        console.say(problem)
    if card is not None:
        console.say(f"{write_card(card, found, overwrite=overwrite)}: written")
    if output == "-":
        sys.stdout.buffer.write(render(told).encode())
    elif output is not None:
        write_atomic(output, render(told).encode())
    if figures is not None:
        Path(figures).mkdir(parents=True, exist_ok=True)
        for name, drawn in pictures(told).items():
            write_atomic(Path(figures) / name, drawn.encode())
    if text:
        sys.stdout.buffer.write(show(told).encode())
