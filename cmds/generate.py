"""l2 generate."""

from __future__ import annotations

from typing import Annotated

import typer

from cmds.console import Console
from cmds.options import Device, Inputs, Model, Output, Quiet, Seed
from cmds.sampling import BatchSize, Dtype, Endpoint, MaxNewTokens, Prompts, Temperature, TopP


def generate(
    model: Model,
    files: Inputs = None,
    prompts: Prompts = None,
    output: Output = "-",
    n: Annotated[int, typer.Option("-n", min=1, help="Answers to each prompt.")] = 1,
    raw: Annotated[bool, typer.Option("--raw", help="Go on from the prompt as plain text: for base models.")] = False,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    top_k: Annotated[int, typer.Option("--top-k", min=0, help="Draw from so many likeliest tokens; 0 is all.")] = 0,
    repetition_penalty: Annotated[
        float, typer.Option("--repetition-penalty", min=1.0, help="Makes tokens said before less likely; 1 is off.")
    ] = 1.0,
    stop: Annotated[
        list[str] | None,
        typer.Option("--stop", help="Text that ends an answer, and is cut off; repeatable.", show_default=False),
    ] = None,
    max_new_tokens: MaxNewTokens = 256,
    batch_size: BatchSize = 64,
    max_batch_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-batch-tokens",
            min=1,
            help="Tokens whose keys and values are held at once, a prompt of n answers counted once: memory (ours).",
        ),
    ] = None,
    endpoint: Endpoint = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
) -> None:
    """Sample answers to prompts: prompt records in, sample records out.

    What is drawn depends on the seed, the prompt's id and the sample's number, never on the batch or the order.

    Example: l2 generate --model runs/sft --prompts prompts.jsonl -n 2 --max-new-tokens 64 -o samples.jsonl
    """
    from cmds.sampling import encode_prompts, open_sampler, read_prompts
    from l2.files.jsonl import check_outputs, open_writer
    from l2.generate.engine import Sampling
    from l2.generate.samples import sample_answers

    asked = [*(files or ()), *(prompts or ())]
    check_outputs(asked, {"--output": output})
    console = Console("generate", quiet)
    policy, tokenizer, name = open_sampler(model, endpoint, device, dtype)
    records = read_prompts(asked)
    rows = encode_prompts(records, tokenizer, raw=raw)
    sampling = Sampling(temperature, top_p, max_new_tokens, seed, top_k, repetition_penalty)
    with open_writer(output) as writer, console.progress("prompts") as progress:
        for samples in sample_answers(
            policy, tokenizer, records, rows, sampling,
            name=name, k=n, batch_size=batch_size, max_batch_tokens=max_batch_tokens, stop=stop or (),
            raw=raw, on_progress=progress,
        ):  # fmt: skip
            for sample in samples:
                writer.write(sample)
