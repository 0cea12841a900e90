"""l2 contam."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmds.console import Console
from cmds.options import Inputs, Output, Quiet, named_files
from l2.files.errors import UsageError

if TYPE_CHECKING:
    from l2.eval.contamination import Contaminated


def contam(
    files: Inputs = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="NAME=FILE or NAME=DIR of l2 evaluate: its questions, too.", show_default=False),
    ] = None,
    shards: Annotated[
        list[str] | None, typer.Option("--shards", help="Training shards (.bin) to look in.", show_default=False)
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="tokenizer.model; default: the one beside the shards.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option("--metric", help="Each sample's result: a field, or one of its scores.", show_default="the first"),
    ] = None,
    index: Annotated[
        str | None,
        typer.Option(
            "--index", help="Directory that keeps the suffix arrays, 4 bytes a token, for the next time.", metavar="DIR"
        ),
    ] = None,
    output: Output = "-",
    append: Annotated[
        str | None, typer.Option("--append", help="Add the results to this file, too.", show_default=False)
    ] = None,
    samples: Annotated[
        str | None,
        typer.Option("--samples", help="The samples with their contaminated shares, as JSONL.", show_default=False),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """How much of each evaluation sample stands in the training shards, and whether it helped (paper A.6, Table 51).

    Reads samples: records with a prompt (target, task and id where known) and what came of it, as l2 evaluate --samples
    writes them; or the questions of --task, which nobody has answered: then there are no scores and no Z. A token is
    contaminated where it lies in a run of more than L tokens that a shard holds too, with up to 4 mismatches: none in
    the first 10, none at the end. For L of 10, 20, 30, 40 and 50: the score of samples that are clean (less than 20 %),
    not clean, not dirty (less than 80 %) and dirty, and Z against as many samples drawn from all; contamination has
    helped where |Z| > 2 in all four, with the right signs.

    Example: l2 contam samples.jsonl --shards data/*.bin --index data/suffixes -o contamination.jsonl
    """
    from l2.eval.contamination import contamination_records, measure_contamination
    from l2.files.jsonl import append_records, check_outputs, expand, read_records, write_records
    from l2.tokens.shards import Shard, check_tokenizer
    from l2.tokens.tokenizer import MODEL_FILE, load_tokenizer

    if not shards:
        raise UsageError("name the training shards: --shards DATA.bin ...")
    console = Console("contam", quiet)
    check_outputs(files or (), {"-o": output, "--samples": samples, "--append": append})
    opened = [Shard(path) for path in expand(shards)]
    vocabulary = load_tokenizer(tokenizer or opened[0].path.parent / MODEL_FILE)
    check_tokenizer(opened, vocabulary.sha256)
    records = list(read_records(files or ())) if files or not task else []
    if task:
        from l2.eval.tasks import task_samples  # it takes torch with it, which samples need not

        records += [sample for name, path in named_files(task).items() for sample in task_samples(name, path)]
    kept = None if index is None else Path(index)
    with console.progress("tokens") as progress:
        found = measure_contamination(records, opened, vocabulary, metric, kept, progress)
    for each in found:
        _tell(console, each)
    results = contamination_records(found, records)
    if samples is not None:
        write_records(samples, (item for each in found for item in each.items))
    write_records(output, results)
    if append is not None:
        append_records(append, results)


def _tell(console: Console, found: Contaminated) -> None:
    """One task's table, as Table 51 has it."""
    from l2.files.columns import aligned

    console.say(f"{found.task}: {len(found.items):,} samples")
    rows = [["L", "", "share %", "n", "score", "of all", "Z"]]
    for length, subsets in found.tables.items():
        for name, subset in subsets.items():
            cells = ["-" if cell is None else f"{cell:.2f}" for cell in (subset.value, subset.expected, subset.z)]
            share = "-" if subset.share is None else f"{100 * subset.share:.1f}"
            rows.append([str(length), name, share, f"{subset.n:,}", *cells])
    console.say(f"{_verdict(found)}\n{aligned(rows)}")


def _verdict(found: Contaminated) -> str:
    """In words."""
    if found.metric is None:
        return "without results: what is contaminated, not whether it helped"
    reach = found.affected_to
    return "no sign that contamination helped" if reach is None else f"contamination has helped, up to L = {reach}"
