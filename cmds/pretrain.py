"""l2 pretrain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cmds.console import Console, from_environment
from cmds.options import Device, Dtype, Overwrite, Quiet, Seed, TensorBoard
from l2.files.errors import UsageError

if TYPE_CHECKING:
    import torch

    from l2.model.config import ModelConfig
    from l2.tokens.shards import Shard
    from l2.tokens.tokenizer import Tokenizer
    from l2.train.loop import Settings


def pretrain(
    shards: Annotated[list[str], typer.Option("--shards", help="Token shards (.bin): files or patterns.")],
    out: Annotated[str, typer.Option("--out", help="Output directory.")] = "runs/pretrain",
    val_shards: Annotated[
        list[str] | None,
        typer.Option("--val-shards", help="Held-out shards: val_loss and bits per byte of all and of each source."),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="tokenizer.model; default: the one beside the shards.")
    ] = None,
    mix: Annotated[
        str | None,
        typer.Option(
            "--mix",
            help="Epochs of each source in one pass: 'wiki*=2,web*=1', by shard name, first match "
            "(LLaMA-1: Wikipedia 2.45, books 2.23, web 1.1). Default: 1 of all.",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            help="nano, tiny, small, 1b (ours), 7b, 13b, 34b, 70b (paper Table 1). 7b-mqa, -gqa, -mha: the same "
            "parameters with keys and values of one head, of groups, of all (paper A.2.1).",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=0, help="Optimizer steps; 0: untrained. Default: one pass.")
    ] = None,
    seq_len: Annotated[
        int | None, typer.Option("--seq-len", min=2, help="Context in tokens; default: the preset's.")
    ] = None,
    batch_tokens: Annotated[
        int | None, typer.Option("--batch-tokens", min=1, help="Tokens a step; default: the preset's (paper: 4M).")
    ] = None,
    micro_batch: Annotated[
        int | None,
        typer.Option("--micro-batch", min=1, help="Windows at once; memory only. Default: about 4k tokens (ours)."),
    ] = None,
    lr: Annotated[
        float | None, typer.Option("--lr", min=0.0, help="Peak learning rate; default: the preset's.")
    ] = None,
    cross_document: Annotated[
        bool, typer.Option("--cross-document", help="Let documents in one window see one another.")
    ] = False,
    raw_uint16: Annotated[
        bool, typer.Option("--raw-uint16", help="The shards have no header: nanoGPT's and llama2.c's .bin.")
    ] = False,
    save_every: Annotated[int, typer.Option("--save-every", min=1, help="Steps between checkpoints (ours).")] = 200,
    keep: Annotated[int, typer.Option("--keep", min=1, help="Newest checkpoints to keep (ours).")] = 2,
    keep_every: Annotated[
        int,
        typer.Option("--keep-every", min=0, help="Steps between checkpoints that are never deleted; 0: none (ours)."),
    ] = 0,
    eval_every: Annotated[
        int, typer.Option("--eval-every", min=1, help="Steps between validations, and samples (ours).")
    ] = 100,
    sample: Annotated[
        list[str] | None,
        typer.Option(
            "--sample",
            help="Text to go on from at each validation, into OUT/samples.jsonl; '' is a new text. Repeatable.",
            show_default=False,
        ),
    ] = None,
    on_spike: Annotated[
        Literal["warn", "skip", "stop"],
        typer.Option(
            "--on-spike", help="A loss or gradient norm 6 standard deviations above the last 128 steps' (ours)."
        ),
    ] = "warn",
    recompute: Annotated[
        Literal["none", "selective", "full"],
        typer.Option(
            "--recompute", help="Of each layer in the backward pass, to save memory (activation checkpointing)."
        ),
    ] = "none",
    compile: Annotated[
        Literal["auto", "on", "off"],
        typer.Option("--compile", help="torch.compile; auto: on a GPU, for 500 steps and more (ours)."),
    ] = "auto",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print settings, memory, expected time and energy, and stop; for as many ranks as WORLD_SIZE says.",
        ),
    ] = False,
    tensorboard: TensorBoard = False,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train a base model on token shards: AdamW, cosine schedule, documents that don't see one another (paper §2).

    Prints --out when done. The same command again goes on where it was, or says that all is done.

    Example: l2 pretrain --shards data/*.bin --preset nano --out runs/base
    """
    from cmds.training import run_training
    from l2.generate.engine import Sampling
    from l2.generate.samples import sampler_of
    from l2.model.checkpoint import new_model
    from l2.model.device import pick_device, pick_dtype
    from l2.tokens.tokenizer import MODEL_FILE
    from l2.train.derivation import derive
    from l2.train.loop import Settings
    from l2.train.mix import EVERYTHING, parse_mix
    from l2.train.presets import choose_preset, find_preset
    from l2.train.pretrain import Pretraining
    from l2.train.schedule import warmup_of

    console = Console("pretrain", quiet)
    data, held_out, vocabulary = _open(shards, val_shards or (), tokenizer, raw_uint16)
    where = pick_device(device)
    tokens = sum(shard.token_count for shard in data)
    name = preset or choose_preset(tokens, vocabulary.vocab_size, where.type == "cuda")
    column = find_preset(name)
    length = seq_len or column.seq_len
    _check_numbers(length, batch_tokens, save_every, keep_every)
    batch = max(1, (batch_tokens or column.batch_tokens) // length)
    micro = micro_batch or max(1, min(batch, 4096 // length))
    objective = Pretraining(
        data, length, batch, micro, seed, vocabulary.bos_id, held_out, cross_document,
        sources=parse_mix(mix) if mix is not None else EVERYTHING,
        count_bytes=vocabulary.byte_counter() if held_out else None,
    )  # fmt: skip
    hashes = [(str(shard.path), shard.verify(vocabulary.vocab_size)) for shard in [*data, *held_out]]
    total = objective.epoch_steps if steps is None else steps
    plan = Settings(
        steps=total,
        lr=column.lr if lr is None else lr,
        warmup=min(total // 2, column.warmup) if column.warmup else warmup_of(total, 0.05),
        dtype=pick_dtype(dtype, where),
        save_every=save_every,
        eval_every=eval_every,
        keep=keep,
        keep_every=keep_every,
        compiled=compile == "on" or (compile == "auto" and where.type == "cuda" and total >= 500),
        recompute=recompute,
        on_spike=on_spike,
    )
    config = column.config(vocabulary.vocab_size, length)
    settings = {"preset": name, "steps": total, "seq_len": length, "batch": batch, "lr": plan.lr, "warmup": plan.warmup}
    settings |= {"dtype": str(plan.dtype).removeprefix("torch."), "cross_document": cross_document}
    settings |= {"compile": plan.compiled, "seed": seed} | ({} if mix is None else {"mix": mix})
    free = {"on_spike": on_spike, "recompute": recompute}  # a run may go on with others
    told = ", ".join(f"{name} {value}" for name, value in (settings | free).items())
    console.say(f"{config.parameters:,} parameters, {tokens:,} tokens, {told}")
    for source in () if mix is None else objective.planned(total):
        amount = f"{source.tokens:,} tokens ({source.share:.1%})"
        console.say(f"mix: {source.pattern}: {amount}, {source.epochs:.2f} epochs")
    sampling = Sampling(temperature=0.6, top_p=0.9, max_new_tokens=128, seed=seed)  # Meta's text completion
    draw = sampler_of(vocabulary, sample, length, sampling, out) if sample else None
    if dry_run:
        for line in derive(name, column, config, tokens, plan, batch * length):
            console.say(line)
        _tell_plan(console, config, plan, total * batch * length, micro * length, where)
        return
    known = {"shards": hashes[: len(data)], "val_shards": hashes[len(data) :]}
    run_training(
        console,
        out,
        settings=settings,
        inputs=known | {"tokenizer": [(MODEL_FILE, vocabulary.sha256)]},
        where=where,
        parameters=config.parameters,
        make_model=lambda: new_model(config, seed).to(where),
        objective=objective,
        plan=plan,
        tokenizer=vocabulary,
        overwrite=overwrite,
        tensorboard=tensorboard,
        draw=draw,
    )


def _open(
    shards: Sequence[str], val_shards: Sequence[str], tokenizer: str | None, raw_uint16: bool
) -> tuple[list[Shard], list[Shard], Tokenizer]:
    """Shards to learn from, those held out, and the tokenizer that made both."""
    from l2.files.jsonl import expand
    from l2.tokens.shards import Shard, check_tokenizer

    data, held_out = ([Shard(path, raw_uint16) for path in expand(some)] for some in (shards, val_shards))
    vocabulary = _tokenizer(tokenizer, data)
    check_tokenizer([*data, *held_out], vocabulary.sha256)
    return data, held_out, vocabulary


def _check_numbers(length: int, batch_tokens: int | None, save_every: int, keep_every: int) -> None:
    """Raises UsageError for a step of less than one window of `length`, and checkpoints to keep that none saves."""
    if batch_tokens is not None and batch_tokens < length:
        raise UsageError(f"--batch-tokens {batch_tokens} is less than one window of {length} tokens (--seq-len)")
    if keep_every % save_every:
        raise UsageError(f"--keep-every {keep_every} is no multiple of --save-every {save_every}: nothing to keep then")


def _tell_plan(
    console: Console, config: ModelConfig, plan: Settings, tokens: int, micro: int, where: torch.device
) -> None:
    """Memory, work, time and energy of a run that is not started, for as many ranks as WORLD_SIZE says."""
    from l2.train.plan import FRACTION, cost, memory
    from l2.train.rehearsal import rehearse

    ranks = from_environment("WORLD_SIZE", 1, 1)
    held = memory(config, plan.dtype, micro, ranks, plan.recompute, where.type == "cpu")
    parts = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in vars(held).items())
    console.say(f"memory of each of {ranks} ranks, as counted: {held.total / 2**30:.2f} GiB ({parts})")
    if ranks > 1:
        with console.progress("layers") as progress:
            peak = rehearse(config, plan.dtype, max(1, micro // config.max_seq_len), ranks, plan.recompute, progress)
        parts = ", ".join(f"{kind.lower()} {size / 2**30:.2f}" for kind, size in peak.items() if kind != "Total")
        console.say(f"the same of FSDP2 on a pretended group, at the peak: {peak['Total'] / 2**30:.2f} GiB ({parts})")
    need = cost(config, tokens, where, plan.dtype, ranks)
    time = f"{need.seconds:,.0f} seconds" if need.seconds < 3600 else f"{need.seconds / 3600:,.1f} hours"
    console.say(
        f"work: {tokens:,} tokens, {need.flops:.3g} FLOPs; about {time} at {FRACTION:.0%} of this device's measured "
        f"peak, {need.joules / 3.6e6:,.3g} kWh and {need.grams:,.3g} gCO2e (estimates)"
    )


def _tokenizer(given: str | None, shards: list[Shard]) -> Tokenizer:
    """The tokenizer that made the shards: as given, or the copy that `l2 tokenize` put beside them."""
    from l2.tokens.tokenizer import load_tokenizer

    beside = Path(shards[0].path).parent / "tokenizer.model"
    if given is None and not beside.exists():
        raise UsageError(f"{beside}: no such file; say with --tokenizer what made the shards")
    return load_tokenizer(given or beside)
