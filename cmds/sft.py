"""l2 sft."""

from __future__ import annotations

from typing import Annotated

import typer

from cmds.console import Console
from cmds.options import Device, Dtype, Model, Out, Overwrite, Quiet, Seed


def sft(
    model: Model,
    out: Out,
    data: Annotated[list[str] | None, typer.Option("--data", help="Dialogs as JSONL; none or - is stdin.")] = None,
    eval_data: Annotated[list[str] | None, typer.Option("--eval-data", help="Held-out dialogs for val_loss.")] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the data (paper §3.1: 2).")] = 2,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Packed rows a step (paper §3.1: 64).")] = 64,
    micro_batch: Annotated[int, typer.Option("--micro-batch", min=1, help="Rows at once; memory only (ours).")] = 4,
    seq_len: Annotated[
        int | None, typer.Option("--seq-len", min=2, help="Context in tokens; default: the model's (paper §3.1: 4096).")
    ] = None,
    lr: Annotated[float, typer.Option("--lr", min=0.0, help="Peak learning rate, cosine (paper §3.1: 2e-5).")] = 2e-5,
    save_every: Annotated[int, typer.Option("--save-every", min=1, help="Steps between checkpoints (ours).")] = 200,
    eval_every: Annotated[int, typer.Option("--eval-every", min=1, help="Steps between validations (ours).")] = 50,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune on dialogs. Only assistant messages with weight 1 (the default) are learned (paper §3.1).

    Prints --out when done. The same command again goes on where it was, or says that all is done.

    Example: l2 rs-sample --model runs/sft --rm runs/rm < prompts.jsonl | l2 sft --model runs/base --data - --out v1
    """
    from dataclasses import replace

    from cmds.training import parent, read_inputs, run_training
    from l2.align.sft import FineTuning, encode_examples
    from l2.model.checkpoint import AnyModel, check_vocabulary, load_config, load_language_model
    from l2.model.device import pick_device, pick_dtype
    from l2.tokens.tokenizer import load_tokenizer
    from l2.train.loop import Settings
    from l2.train.schedule import warmup_of

    console = Console("sft", quiet)
    config, _ = load_config(model)
    length = seq_len or config.max_seq_len
    vocabulary = load_tokenizer(model)
    check_vocabulary(config, vocabulary, model)
    records, inputs = read_inputs(data, ["messages"])
    held_out, held_out_inputs = read_inputs(eval_data, ["messages"]) if eval_data else ([], [])
    examples, cut = encode_examples(records, vocabulary, length)
    if cut:
        console.say(f"{cut} of {len(examples)} dialogs are longer than {length} tokens and were cut there")
    where = pick_device(device)
    objective = FineTuning(
        examples, length, batch, micro_batch, epochs, seed, encode_examples(held_out, vocabulary, length)[0]
    )
    plan = Settings(
        steps=objective.steps,
        lr=lr,
        warmup=warmup_of(objective.steps, 0.03),
        dtype=pick_dtype(dtype, where),
        save_every=save_every,
        eval_every=eval_every,
    )
    console.say(f"{len(examples):,} dialogs in {len(objective.rows):,} rows of {length} tokens, {plan.steps} steps")

    def make_model() -> AnyModel:
        start = load_language_model(model, device=where)
        start.config = replace(start.config, max_seq_len=length)
        return start

    run_training(
        console,
        out,
        settings={
            "epochs": epochs,
            "batch": batch,
            "seq_len": length,
            "lr": lr,
            "dtype": str(plan.dtype).removeprefix("torch."),
            "seed": seed,
        },
        inputs={"data": inputs, "eval_data": held_out_inputs, "model": parent(model)},
        where=where,
        make_model=make_model,
        objective=objective,
        plan=plan,
        tokenizer=vocabulary,
        overwrite=overwrite,
    )
