"""l2 rm-train."""

from __future__ import annotations

from typing import Annotated

import typer

from cmds.console import Console
from cmds.options import Device, Dtype, Model, Out, Overwrite, Quiet, Seed, TensorBoard


def rm_train(
    model: Model,
    out: Out,
    data: Annotated[list[str] | None, typer.Option("--data", help="Preferences as JSONL; none or - is stdin.")] = None,
    eval_data: Annotated[
        list[str] | None, typer.Option("--eval-data", help="Held-out preferences for val_accuracy.")
    ] = None,
    margin: Annotated[
        str, typer.Option("--margin", help="small, large or none: the paper's margin by rating (Table 27).")
    ] = "small",
    aux_weight: Annotated[
        float,
        typer.Option(
            "--aux-weight", min=0.0, help="Weight of the safety auxiliary loss (the paper gives none; 0: off)."
        ),
    ] = 0.0,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the data (paper §3.2.2: 1).")] = 1,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pairs a step (paper §3.2.2: 512).")] = 512,
    micro_batch: Annotated[int, typer.Option("--micro-batch", min=1, help="Pairs at once; memory only (ours).")] = 16,
    lr: Annotated[
        float, typer.Option("--lr", min=0.0, help="Peak learning rate, cosine (paper §3.2.2: 1e-5; 70b 5e-6).")
    ] = 1e-5,
    save_every: Annotated[int, typer.Option("--save-every", min=1, help="Steps between checkpoints (ours).")] = 200,
    eval_every: Annotated[int, typer.Option("--eval-every", min=1, help="Steps between validations (ours).")] = 50,
    tensorboard: TensorBoard = False,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train a reward model on preferences: a scalar head on the chat model, ranking loss with margins (paper §3.2.2).

    With --aux-weight, answers labelled by `safety` are also told safe from unsafe. Prints --out when done.

    Example: l2 rm-train --model runs/sft --data preferences.jsonl --margin small --out runs/rm
    """
    from cmds.training import parent, read_inputs, run_training
    from l2.align.preferences import UNLABELLED, encode_pairs
    from l2.align.reward import Ranking
    from l2.model.checkpoint import check_vocabulary, load_config, load_model, scalar_from
    from l2.model.device import pick_device, pick_dtype
    from l2.tokens.tokenizer import load_tokenizer
    from l2.train.loop import Settings
    from l2.train.schedule import warmup_of

    console = Console("rm-train", quiet)
    config, _ = load_config(model)
    vocabulary = load_tokenizer(model)
    check_vocabulary(config, vocabulary, model)
    fields = ["prompt", "chosen", "rejected"]
    records, inputs = read_inputs(data, fields)
    held_out, held_out_inputs = read_inputs(eval_data, fields) if eval_data else ([], [])
    pairs = encode_pairs(records, vocabulary, config.max_seq_len, margin)
    if aux_weight and all(pair.safe == UNLABELLED for pair in pairs):
        console.say("no pair is labelled by safety: --aux-weight has nothing to learn from")
    where = pick_device(device)
    objective = Ranking(
        pairs,
        batch,
        micro_batch,
        epochs,
        seed,
        aux_weight,
        encode_pairs(held_out, vocabulary, config.max_seq_len, margin),
    )
    plan = Settings(
        steps=objective.steps,
        lr=lr,
        warmup=warmup_of(objective.steps, 0.03),
        dtype=pick_dtype(dtype, where),
        save_every=save_every,
        eval_every=eval_every,
    )
    console.say(f"{len(pairs):,} pairs, {plan.steps} steps, margin {margin}, auxiliary weight {aux_weight:g}")
    settings = {"epochs": epochs, "batch": batch, "lr": lr, "margin": margin, "aux_weight": aux_weight}
    run_training(
        console,
        out,
        settings=settings | {"dtype": str(plan.dtype).removeprefix("torch."), "seed": seed},
        inputs={"data": inputs, "eval_data": held_out_inputs, "model": parent(model)},
        where=where,
        parameters=config.parameters,
        make_model=lambda: scalar_from(load_model(model, device=where), seed=seed),
        objective=objective,
        plan=plan,
        tokenizer=vocabulary,
        overwrite=overwrite,
        tensorboard=tensorboard,
    )
