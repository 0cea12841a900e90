"""l2 generate."""

from __future__ import annotations

from typing import Annotated

import typer

from cmds.console import Console
from cmds.options import Device, Inputs, Model, Output, Quiet, Seed
from cmds.sampling import BatchSize, Dtype, MaxNewTokens, Prompts, Temperature, TopP


def generate(
    model: Model,
    files: Inputs = None,
    prompts: Prompts = None,
    output: Output = "-",
    n: Annotated[int, typer.Option("-n", min=1, help="Answers to each prompt.")] = 1,
    raw: Annotated[bool, typer.Option("--raw", help="Go on from the prompt as plain text: for base models.")] = False,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    max_new_tokens: MaxNewTokens = 256,
    batch_size: BatchSize = 64,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
) -> None:
    """Sample answers to prompts: prompt records in, sample records out.

    What is drawn depends on the seed, the prompt's id and the sample's number, never on the batch or the order.

    Example: l2 generate --model runs/sft --prompts prompts.jsonl -n 2 --max-new-tokens 64 -o samples.jsonl
    """
    from cmds.sampling import encode_prompts, open_policy, read_prompts
    from l2.files.jsonl import open_writer
    from l2.generate.engine import Sampling
    from l2.generate.samples import sample_answers

    console = Console("generate", quiet)
    policy, tokenizer = open_policy(model, device, dtype)
    records = read_prompts([*(files or ()), *(prompts or ())])
    rows = encode_prompts(records, tokenizer, raw=raw)
    sampling = Sampling(temperature, top_p, max_new_tokens, seed)
    with open_writer(output) as writer, console.progress("prompts") as progress:
        for samples in sample_answers(
            policy, tokenizer, records, rows, sampling,
            name=model, k=n, batch_size=batch_size, raw=raw, on_progress=progress,
        ):  # fmt: skip
            for sample in samples:
                writer.write(sample)
