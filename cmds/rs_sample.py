"""l2 rs-sample."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from cmds.console import Console
from cmds.options import Device, Dtype, Model, Output, Quiet, Seed
from cmds.sampling import BatchSize, MaxNewTokens, Prompts, Rm, Temperature, TopP
from l2.files.errors import UsageError


def rs_sample(
    model: Model,
    rm: Rm = None,
    prompts: Prompts = None,
    output: Output = "-",
    k: Annotated[int, typer.Option("-k", min=1, help="Answers to each prompt (the paper does not say; ours).")] = 8,
    everything: Annotated[
        str | None, typer.Option("--all", help="Every sample with its rewards, as JSONL.", show_default=False)
    ] = None,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    max_new_tokens: MaxNewTokens = 256,
    batch_size: BatchSize = 64,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
) -> None:
    """Sample K answers to each prompt and keep the best: prompt records in, dialogs for `l2 sft` out (paper §3.2.3).

    One --rm decides alone. Of two, named helpful and safe, the safe one decides for prompts tagged `safety` and for
    answers it scores under 0.15, the helpful one otherwise. Answers cut off or empty are never chosen.

    Example: l2 rs-sample --model runs/sft --rm runs/rm -k 8 < prompts.jsonl | l2 sft --model runs/base --out runs/v1
    """
    from cmds.sampling import encode_prompts, open_policy, open_rewards, read_prompts
    from l2.align.rejection import best_of
    from l2.files.jsonl import open_writer
    from l2.generate.engine import Sampling
    from l2.generate.samples import add_rewards, sample_answers

    console = Console("rs-sample", quiet)
    policy, tokenizer = open_policy(model, device, dtype)
    rewards = open_rewards(rm, device, tokenizer)
    if len(rewards) != 1 and set(rewards) != {"helpful", "safe"}:
        raise UsageError("give one --rm DIR, or two: --rm helpful=DIR --rm safe=DIR")
    records = read_prompts(prompts)
    rows = encode_prompts(records, tokenizer)
    sampling = Sampling(temperature, top_p, max_new_tokens, seed)
    with console.progress("prompts") as progress:
        groups = sample_answers(
            policy, tokenizer, records, rows, sampling, name=model, k=k, batch_size=batch_size, on_progress=progress
        )
    samples = [sample for group in groups for sample in group]
    whole = [row + sample["tokens"] for row, group in zip(rows, groups, strict=True) for sample in group]
    with console.progress("scores") as progress:
        scored = list(add_rewards(rewards, samples, whole, on_progress=progress))
    if everything is not None:
        with open_writer(everything) as writer:
            for sample in scored:
                writer.write(sample)
    counts: Counter[str] = Counter()
    with open_writer(output) as writer:
        for dialog in best_of((scored[i : i + k] for i in range(0, len(scored), k)), counts):
            writer.write(dialog)
    console.say(f"{len(records):,} prompts: " + ", ".join(f"{what} {n:,}" for what, n in counts.items()))
