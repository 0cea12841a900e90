"""l2 rm-train."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from cmds.console import Console
from cmds.options import Device, Dtype, Model, Out, Overwrite, Quiet, Seed, TensorBoard
from l2.files.errors import BadInput


def rm_train(
    model: Model,
    out: Out,
    data: Annotated[list[str] | None, typer.Option("--data", help="Preferences as JSONL; none or - is stdin.")] = None,
    eval_data: Annotated[
        list[str] | None, typer.Option("--eval-data", help="Held-out preferences for val_accuracy.")
    ] = None,
    mix_preset: Annotated[
        str | None,
        typer.Option(
            "--mix-preset",
            metavar="helpful|safe",
            show_default=False,
            help="The paper's data for one of its two models (§3.2.2), from --data told apart by kind and source.",
        ),
    ] = None,
    margin: Annotated[
        str,
        typer.Option("--margin", help="By rating: small, large or none (Table 27), or a JSON file {rating: margin}."),
    ] = "small",
    aux_weight: Annotated[
        float,
        typer.Option(
            "--aux-weight", min=0.0, help="λ of the safety auxiliary loss (the paper gives none; ours 0, off; try 0.5)."
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

    With --aux-weight λ, λ · the cross-entropy of σ(score) is added for each answer that `safety` tells safe or unsafe
    (form and λ are ours). Pairs whose rejected answer alone is safe are left out. --mix-preset helpful: all helpfulness
    pairs of your own (source human, simulated or none) and as many of all others; safe: all safety pairs, and a tenth
    of helpfulness. Prints --out when done.

    Example: l2 rm-train --model runs/sft --data preferences.jsonl --margin small --out runs/rm
    """
    from cmds.training import finetuning_plan, parent, read_inputs, run_training
    from l2.align.losses import MARGINS
    from l2.align.preferences import EXCLUDED, UNLABELLED, encode_pairs, margins_of, mixed, valid
    from l2.align.reward import Ranking
    from l2.files.manifest import sha256_file
    from l2.model.checkpoint import check_vocabulary, load_config, load_model, scalar_from
    from l2.model.device import pick_device, pick_dtype
    from l2.tokens.tokenizer import load_tokenizer

    console = Console("rm-train", quiet)
    config, _ = load_config(model)
    vocabulary = load_tokenizer(model)
    check_vocabulary(config, vocabulary, model)
    margins = margins_of(margin)
    fields = ["prompt", "chosen", "rejected"]
    records, inputs = read_inputs(data, fields)
    held_out, held_out_inputs = read_inputs(eval_data, fields) if eval_data else ([], [])
    used, judged = valid(records), valid(held_out)
    left = len(records) - len(used)
    for option, all_of, kept in ("--data", records, used), ("--eval-data", held_out, judged):
        if len(kept) < len(all_of):
            out_of = f"{len(all_of) - len(kept):,} of {len(all_of):,} pairs"
            console.say(f"{option}: {out_of} left out, safety {EXCLUDED}: the chosen answer is the unsafe one")
    if mix_preset is not None:
        used = mixed(used, mix_preset, seed)
        shares = Counter(f"{record['kind']} of {record.get('source') or 'no source'}" for record in used)
        console.say(f"--mix-preset {mix_preset}: {', '.join(f'{n:,} {name}' for name, n in sorted(shares.items()))}")
    if not used:
        raise BadInput("--data", f"{len(records)} pairs, none of them to learn from", "at least one")
    pairs, shown = (encode_pairs(some, vocabulary, config.max_seq_len, margins) for some in (used, judged))
    if aux_weight and all(pair.safe == UNLABELLED for pair in pairs):
        console.say("no pair is labelled by safety: --aux-weight has nothing to learn from")
    where = pick_device(device)
    objective = Ranking(pairs, batch, micro_batch, epochs, seed, config.dim, aux_weight, shown)
    plan = finetuning_plan(objective.steps, lr, pick_dtype(dtype, where), save_every, eval_every)
    console.say(f"{len(pairs):,} pairs, {plan.steps} steps, margin {margin}, auxiliary weight {aux_weight:g}")
    settings = {"epochs": epochs, "batch": batch, "lr": lr, "margin": margin, "aux_weight": aux_weight}
    settings |= ({"mix_preset": mix_preset} if mix_preset else {}) | ({"left_out": left} if left else {})
    margin_file = {} if margin in MARGINS else {"margin": [(margin, sha256_file(margin))]}
    run_training(
        console,
        out,
        settings=settings | {"dtype": str(plan.dtype).removeprefix("torch."), "seed": seed},
        inputs={"data": inputs, "eval_data": held_out_inputs, "model": parent(model)} | margin_file,
        where=where,
        parameters=config.parameters,
        make_model=lambda: scalar_from(load_model(model, device=where), seed=seed),
        objective=objective,
        plan=plan,
        tokenizer=vocabulary,
        overwrite=overwrite,
        tensorboard=tensorboard,
    )
