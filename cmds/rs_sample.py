"""l2 rs-sample."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import Annotated

import typer

from cmds.console import Console
from cmds.options import Device, Inputs, Model, Output, Quiet, Rejects, Seed
from cmds.sampling import BatchSize, Dtype, Endpoint, MaxNewTokens, Prompts, Rm, TopP
from l2.files.errors import L2Error


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
            "--pool",
            help="What earlier versions chose (or their --all): their answers compete, scored anew.",
            show_default=False,
        ),
    ] = None,
    curve: Annotated[
        str | None,
        typer.Option(
            "--curve",
            help="Best and median score of N answers by temperature, as JSON (Figures 7, 8).",
            show_default=False,
        ),
    ] = None,
    rejects: Rejects = None,
    temperature: Annotated[
        list[float] | None,
        typer.Option(
            "--temperature",
            min=0.0,
            help="Of sampling; given several times, -k answers at each (paper Figure 8). Default: 1.",
            show_default=False,
        ),
    ] = None,
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
    answers it scores under 0.15, the helpful one otherwise. Never chosen, but counted: answers that were cut off, that
    are empty, write tags of the chat format, go round in circles, or say what another candidate says. Rewards are
    computed in float32 unless --dtype asks for bfloat16.

    Example: l2 rs-sample --model runs/sft --rm runs/rm -k 8 < prompts.jsonl | l2 sft --model runs/base --out runs/v1
    """
    import orjson

    from cmds.sampling import encode_prompts, open_rewards, open_sampler, read_prompts, rm_directories
    from l2.align.rejection import Tally, check_judges, make_pool, rejection_sample
    from l2.files.atomic import write_atomic
    from l2.files.jsonl import check_outputs, open_writer, read_records
    from l2.files.ledger import NothingKept, open_ledger
    from l2.generate.engine import Sampling

    asked = [*(files or ()), *(prompts or ())]
    outputs = {"--output": output, "--all": everything, "--curve": curve, "--rejects": rejects}
    check_outputs([*asked, *(pool or ())], outputs)
    check_judges(rm_directories(rm))
    temperatures = list(dict.fromkeys(temperature or [1.0]))
    console = Console("rs-sample", quiet)
    policy, tokenizer, name = open_sampler(model, endpoint, device, dtype)
    rewards = open_rewards(rm, device, tokenizer, dtype)
    records = read_prompts(asked)
    rows = encode_prompts(records, tokenizer)
    older = make_pool(read_records(pool), records) if pool else {}
    # each temperature draws anew: the same numbers would draw much the same answers
    sampling = [Sampling(one, top_p, max_new_tokens, seed + (number << 32)) for number, one in enumerate(temperatures)]
    tally = Tally()
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
        for record, answers in zip(records, answered, strict=True):
            tally.add(answers)
            if tried is not None:
                for sample in answers.samples:
                    tried.write(sample)
            if answers.dialog is not None:
                writer.write(answers.dialog)
            else:
                ledger.reject(record, "no_fit_answer", k * len(sampling), line=record.line)
        if ledger.total == len(records):
            raise NothingKept
    if ledger.total == len(records):
        raise L2Error("no prompt got an answer that ended and says something; try a larger --max-new-tokens or -k")
    if curve is not None:
        write_atomic(curve, orjson.dumps(tally.curves(temperatures), option=orjson.OPT_INDENT_2))
    for sentence in tally.told():
        console.say(sentence)
