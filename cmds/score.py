"""l2 score."""

from __future__ import annotations

from typing import Annotated

import typer

from cmds.console import Console
from cmds.options import Device, Inputs, Output, Quiet
from cmds.sampling import BatchSize, Rm, RmDtype
from l2.files.errors import UsageError


def score(
    files: Inputs = None,
    rm: Rm = None,
    output: Output = "-",
    sigmoid: Annotated[
        bool,
        typer.Option("--sigmoid", help="Scores from 0 to 1, as the paper shows them; ppo and compare want raw ones."),
    ] = False,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    dtype: RmDtype = "auto",
    quiet: Quiet = False,
) -> None:
    """Add reward-model scores to samples or dialogs: the same records with rewards {name: raw score}.

    The score is read at the EOS that ends the last answer; its sigmoid is the paper's 0 to 1 (§3.2.2). Samples keep
    the tokens that were drawn, so an answer that was cut off is scored where it was cut. Records come out as they come
    in, some hundred later.

    Example: l2 score samples.jsonl --rm helpful=runs/helpful-rm --rm safe=runs/safe-rm -o scored.jsonl
    """
    from cmds.sampling import open_rewards, rm_directories
    from l2.files.jsonl import check_outputs, open_writer, read_records
    from l2.generate.samples import add_rewards
    from l2.tokens.tokenizer import load_tokenizer

    check_outputs(files or (), {"--output": output})
    directories = rm_directories(rm)
    if not directories:
        raise UsageError("give a reward model: --rm NAME=DIR")
    console = Console("score", quiet)
    tokenizer = load_tokenizer(next(iter(directories.values())))
    models = open_rewards(rm, device, tokenizer, dtype)
    records = read_records(files or ())
    with open_writer(output) as writer, console.progress("scores") as progress:
        scored = add_rewards(models, tokenizer, records, batch_size=batch_size, sigmoid=sigmoid, on_progress=progress)
        for record in scored:
            writer.write(record)
