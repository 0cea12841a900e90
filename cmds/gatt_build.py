"""l2 gatt-build."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Literal

import typer

from cmds.console import Console
from cmds.options import Device, Inputs, Model, Output, Quiet, Rejects, Seed
from cmds.sampling import BatchSize, Dtype, Endpoint, MaxNewTokens, Temperature, TopP
from l2.files.errors import L2Error, UsageError


def gatt_build(
    model: Model,
    files: Inputs = None,
    constraints: Annotated[
        str | None,
        typer.Option(
            "--constraints",
            help="Instructions as JSONL: instruction; short, its terse form; category. Default: 50 built-in hobbies, "
            "public figures and languages.",
            show_default=False,
        ),
    ] = None,
    more: Annotated[
        int,
        typer.Option("--grow", min=0, help="Have the model name up to this many more of each built-in category."),
    ] = 0,
    output: Output = "-",
    loss: Annotated[
        Literal["last", "all-sampled"],
        typer.Option("--loss", help="Answers to learn: the last (paper §3.3), or all (ours)."),
    ] = "last",
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check",
            help="Drop dialogs that end in disobedience, where a constraint says how to tell: kind, expect (ours).",
        ),
    ] = True,
    rejects: Rejects = None,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    max_new_tokens: MaxNewTokens = 256,
    batch_size: BatchSize = 64,
    endpoint: Endpoint = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
) -> None:
    """Make dialogs that teach a model to obey its first instruction in every turn: Ghost Attention (paper §3.3).

    Only the user turns of the dialogs read are kept. Each dialog gets an instruction at random, half the time in its
    terse form: one, or a combination of one from each of several categories. The model answers turn by turn with it in
    every user turn, and what is written has it in the first alone. Dialogs with an answer that is cut off, empty or
    forges a chat tag, or that outgrow the context, are dropped into --rejects.

    Example: l2 gatt-build dialogs.jsonl --model runs/chat --grow 20 -o ghost.jsonl

    Example: l2 gatt-build dialogs.jsonl --model runs/chat --constraints constraints.jsonl -o ghost.jsonl
    """
    from cmds.sampling import open_sampler
    from l2.align.attributes import asker, built_in, grow
    from l2.align.ghost import build_dialogs
    from l2.files.jsonl import check_outputs, open_writer, read_records
    from l2.files.ledger import NothingKept, open_ledger
    from l2.generate.engine import Sampling

    read = list(files or ()) if constraints is None else [*(files or ()), constraints]
    check_outputs(read, {"--output": output, "--rejects": rejects})
    console = Console("gatt-build", quiet)
    if more and constraints is not None:
        raise UsageError("--grow adds to the built-in categories, but --constraints names others")
    instructions = built_in() if constraints is None else list(read_records([constraints], required=["instruction"]))
    dialogs = list(read_records(files or (), required=["messages"]))
    policy, tokenizer, name = open_sampler(model, endpoint, device, dtype)
    sampling = Sampling(temperature, top_p, max_new_tokens, seed)
    if more:
        grown = grow(asker(policy, tokenizer, sampling, batch_size=batch_size), more)
        console.say(f"the model named {len(grown)} more constraints")
        instructions += grown
    kept = 0
    with open_ledger(rejects) as ledger, suppress(NothingKept), open_writer(output) as writer:
        with console.progress("turns") as progress:
            for dialog in build_dialogs(
                policy, tokenizer, dialogs, instructions, sampling, ledger,
                loss=loss, check=check, batch_size=batch_size, on_progress=progress,
            ):  # fmt: skip
                writer.write(dialog | {"model": name})
                kept += 1
        if not kept:
            raise NothingKept
    if not kept:
        why = _told(ledger.counts)
        raise L2Error(
            f"none of {len(dialogs):,} dialogs is fit to learn from ({why}); where they are unfinished, try a larger "
            "--max-new-tokens, where they leave the context a smaller one"
        )
    console.say(
        f"{len(dialogs):,} dialogs, {kept:,} kept{'; rejected: ' if ledger.total else ''}{_told(ledger.counts)}"
    )


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{rule} {count:,}" for rule, count in counts.items())
