"""l2 distill-build."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import Annotated

import typer

from cmds.console import Console
from cmds.options import Device, Inputs, Model, Output, Quiet, Rejects, Seed
from cmds.sampling import BatchSize, Dtype, Endpoint, MaxNewTokens, Prompts, Temperature, TopP
from l2.files.errors import L2Error


def distill_build(
    model: Model,
    rm: Annotated[str, typer.Option("--rm", help="The safety reward model, which decides what is kept.")],
    files: Inputs = None,
    prompts: Prompts = None,
    output: Output = "-",
    everything: Annotated[
        str | None,
        typer.Option("--all", help="Both answers to each prompt with their scores, as JSONL (Figure 16)."),
    ] = None,
    preprompts: Annotated[
        str | None,
        typer.Option(
            "--preprompts", help="Your own, as JSONL: preprompt, and category where it is for one. Default: built in."
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
    """Make dialogs that teach safe answers: adversarial prompts in, dialogs for `l2 sft` out (paper §4.2.4).

    The model answers each prompt twice, bare and under a safety pre-prompt: for a prompt with a `category` (illicit,
    hateful, advice, or your own) its answer template, for others a sentence built at random. The second answer is kept,
    without the pre-prompt, where the safety reward model scores it above the first. Prompts that say "safety": false
    are left alone: the paper found that distillation harms helpful answers.

    Example: l2 distill-build adversarial.jsonl --model runs/sft --rm runs/safe-rm -o distilled.jsonl
    """
    from cmds.sampling import open_rewards, open_sampler, read_prompts
    from l2.align.distill import distill, is_adversarial
    from l2.files.jsonl import check_outputs, open_writer, read_records
    from l2.files.ledger import NothingKept, open_ledger
    from l2.generate.engine import Sampling

    sources = [*(files or ()), *(prompts or ())]
    read = sources if preprompts is None else [*sources, preprompts]
    check_outputs(read, {"--output": output, "--all": everything, "--rejects": rejects})
    console = Console("distill-build", quiet)
    policy, tokenizer, name = open_sampler(model, endpoint, device, dtype)
    (safety_rm,) = open_rewards([rm], device, tokenizer).values()
    own = list(read_records([preprompts], required=["preprompt"])) if preprompts is not None else []
    records = read_prompts(sources)
    asked = [record for record in records if is_adversarial(record)]
    sampling = Sampling(temperature, top_p, max_new_tokens, seed)
    kept = 0
    with ExitStack() as stack:
        both = stack.enter_context(open_writer(everything)) if everything is not None else None
        ledger = stack.enter_context(open_ledger(rejects))
        stack.enter_context(suppress(NothingKept))
        writer = stack.enter_context(open_writer(output))
        progress = stack.enter_context(console.progress("prompts"))
        for record in records:
            if not is_adversarial(record):
                ledger.reject(record, "helpful", False, line=record.line)
        answered = distill(
            policy, tokenizer, safety_rm, asked, sampling,
            name=name, preprompts=own, batch_size=batch_size, on_progress=progress,
        )  # fmt: skip
        for record, pair in zip(asked, answered, strict=True):
            if both is not None:
                both.write(pair.record())
            if pair.fault is None:
                writer.write(pair.dialog())
                kept += 1
            else:
                ledger.reject(record, *pair.fault, line=record.line)
        if not kept:
            raise NothingKept
    told = ", ".join(f"{rule} {count:,}" for rule, count in ledger.counts.items())
    if not kept:
        raise L2Error(f"no answer under a pre-prompt is worth learning ({told}); is --rm the safety reward model?")
    console.say(f"{len(records):,} prompts, {kept:,} kept{'; rejected: ' if told else ''}{told}")
