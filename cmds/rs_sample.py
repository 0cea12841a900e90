"""l2 rs-sample."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import Annotated

import typer

from cmds.console import Console
from cmds.options import Device, Inputs, Model, Output, Quiet, Rejects, Seed
from cmds.sampling import BatchSize, Dtype, Endpoint, MaxNewTokens, Prompts, Rm, Temperature, TopP
from l2.files.errors import L2Error, UsageError


def rs_sample(
    model: Model,
    files: Inputs = None,
    rm: Rm = None,
    prompts: Prompts = None,
    output: Output = "-",
    k: Annotated[int, typer.Option("-k", min=1, help="Answers to each prompt (the paper does not say; ours).")] = 8,
    everything: Annotated[
        str | None, typer.Option("--all", help="Every new sample with its rewards, as JSONL.", show_default=False)
    ] = None,
    pool: Annotated[
        list[str] | None,
        typer.Option(
            "--pool", help="--all files of earlier runs: their samples compete, scored anew.", show_default=False
        ),
    ] = None,
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
    """Sample K answers to each prompt and keep the best: prompt records in, dialogs for `l2 sft` out (paper §3.2.3).

    One --rm decides alone. Of two, named helpful and safe, the safe one decides for prompts tagged `safety` and for
    answers it scores under 0.15, the helpful one otherwise. Answers cut off or empty are never chosen. Rewards are
    computed in float32 unless --dtype asks for bfloat16.

    Example: l2 rs-sample --model runs/sft --rm runs/rm -k 8 < prompts.jsonl | l2 sft --model runs/base --out runs/v1
    """
    from cmds.sampling import encode_prompts, open_rewards, open_sampler, read_prompts, rm_directories
    from l2.align.rejection import check_judges, make_pool, rejection_sample
    from l2.files.jsonl import open_writer, read_records
    from l2.files.ledger import NothingKept, open_ledger
    from l2.generate.engine import Sampling

    named = [path for path in (output, everything, rejects) if path is not None]
    if len(set(named)) < len(named):
        raise UsageError(f"--output, --all and --rejects must differ: {', '.join(named)}")
    check_judges(rm_directories(rm))
    console = Console("rs-sample", quiet)
    policy, tokenizer, name = open_sampler(model, endpoint, device, dtype)
    rewards = open_rewards(rm, device, tokenizer, dtype)
    records = read_prompts([*(files or ()), *(prompts or ())])
    rows = encode_prompts(records, tokenizer)
    older = make_pool(read_records(pool), records) if pool else {}
    sampling = Sampling(temperature, top_p, max_new_tokens, seed)
    with ExitStack() as stack:
        tried = stack.enter_context(open_writer(everything)) if everything is not None else None
        ledger = stack.enter_context(open_ledger(rejects))
        stack.enter_context(suppress(NothingKept))
        writer = stack.enter_context(open_writer(output))
        progress = stack.enter_context(console.progress("prompts"))
        answered = rejection_sample(
            policy, tokenizer, rewards, records, rows, sampling,
            name=name, k=k, pool=older, batch_size=batch_size, on_progress=progress,
        )  # fmt: skip
        for record, (dialog, samples) in zip(records, answered, strict=True):
            if tried is not None:
                for sample in samples:
                    tried.write(sample)
            if dialog is not None:
                writer.write(dialog)
            else:
                ledger.reject(record, "no_fit_answer", k, line=record.line)
        if ledger.total == len(records):
            raise NothingKept
    kept = len(records) - ledger.total
    if not kept:
        raise L2Error("no prompt got an answer that ended and says something; try a larger --max-new-tokens or -k")
    console.say(f"{len(records):,} prompts: {kept:,} kept, {ledger.total:,} without an answer that is fit")
