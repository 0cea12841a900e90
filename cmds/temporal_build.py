"""l2 temporal-build."""

from __future__ import annotations

from cmds.console import Console
from cmds.options import Inputs, Output, Quiet, Seed


def temporal_build(files: Inputs = None, output: Output = "-", seed: Seed = 0, quiet: Quiet = False) -> None:
    """Make dialogs that teach a model to mind the date: dated facts in, dialogs for `l2 sft` out (paper §5.1).

    A fact is {"prompt", "answer", "date": "2009-01-20"}, and `before`, what to say before that day. Each gives a dialog
    asked after the event and one before it, up to 20 years away, with the day in its system message. "{years}" in an
    answer becomes the whole years since the event. `l2 evaluate --task NAME=facts.jsonl` asks both, a year away.

    Example: l2 temporal-build facts.jsonl -o dated.jsonl
    """
    from l2.align.temporal import dated_dialogs
    from l2.files.jsonl import check_outputs, read_records, write_records

    check_outputs(files or (), {"--output": output})
    count = write_records(output, dated_dialogs(read_records(files or (), required=["prompt", "answer", "date"]), seed))
    Console("temporal-build", quiet).say(f"{count // 2:,} facts, {count:,} dialogs")
