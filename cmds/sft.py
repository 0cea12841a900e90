"""l2 sft."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cmds.console import Console, rank_and_world
from cmds.options import Device, Dtype, Model, OnBad, Out, Overwrite, Quiet, Rejects, Seed, TensorBoard
from l2.files.errors import BadInput

if TYPE_CHECKING:
    from l2.align.examples import Example, Examples
    from l2.tokens.tokenizer import Tokenizer

AUTHORS = 16  # models whose sampled dialogs the manifest counts, the commonest (ours)


def sft(
    model: Model,
    out: Out = "runs/sft",
    data: Annotated[list[str] | None, typer.Option("--data", help="Dialogs as JSONL; none or - is stdin.")] = None,
    form: Annotated[
        Literal["messages", "sharegpt", "preference", "prompt-completion", "alpaca"] | None,
        typer.Option("--format", help="Fields of the dialogs; default: told by each record.", show_default=False),
    ] = None,
    mix: Annotated[
        str | None,
        typer.Option(
            "--mix",
            help="Times that a pass reads each file: 'gatt*=2,*=1', by file name, first match. Default: 1 of all.",
            show_default=False,
        ),
    ] = None,
    eval_data: Annotated[
        list[str] | None, typer.Option("--eval-data", help="Held-out dialogs: val_loss of all and of each file.")
    ] = None,
    from_base: Annotated[
        bool,
        typer.Option("--from-base", help="Start from the base model that --model was made of (paper §3.2.3)."),
    ] = False,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the data (paper §3.1: 2).")] = 2,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Packed rows a step (paper §3.1: 64).")] = 64,
    micro_batch: Annotated[int, typer.Option("--micro-batch", min=1, help="Rows at once; memory only (ours).")] = 4,
    seq_len: Annotated[
        int | None, typer.Option("--seq-len", min=2, help="Context in tokens; default: the model's (paper §3.1: 4096).")
    ] = None,
    lr: Annotated[float, typer.Option("--lr", min=0.0, help="Peak learning rate, cosine (paper §3.1: 2e-5).")] = 2e-5,
    save_every: Annotated[int, typer.Option("--save-every", min=1, help="Steps between checkpoints (ours).")] = 200,
    eval_every: Annotated[int, typer.Option("--eval-every", min=1, help="Steps between validations (ours).")] = 50,
    show: Annotated[
        int,
        typer.Option("--show", min=0, help="Train nothing: print this many dialogs, with what is learned marked."),
    ] = 0,
    on_bad: OnBad = "stop",
    rejects: Rejects = None,
    tensorboard: TensorBoard = False,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune on dialogs. Only assistant messages with weight 1 (the default) are learned (paper §3.1).

    Dialogs are messages, ShareGPT's conversations, Alpaca's instruction and output, prompt and completion, or the
    chosen answers of preferences. They are packed into rows without seeing one another. One that is too long keeps
    the turns that fit whole.

    Prints --out when done; run.json there counts the dialogs by the `model` that sampled them. The same command again
    goes on where it was, or says that all is done.

    Example: l2 sft --model runs/base --data dialogs.jsonl --show 2

    Example: l2 rs-sample --model runs/sft --rm runs/rm < prompts.jsonl | l2 sft --model runs/base --data - --out v1
    """
    from dataclasses import replace

    from cmds.training import check_shared, finetuning_plan, parent, run_training
    from l2.align.examples import read_examples
    from l2.align.sft import FineTuning, Source
    from l2.files.jsonl import STDIO, expand
    from l2.files.ledger import open_ledger
    from l2.model.checkpoint import AnyModel, base_of, check_vocabulary, load_config, load_language_model
    from l2.model.device import pick_device, pick_dtype
    from l2.tokens.tokenizer import load_tokenizer
    from l2.train.mix import EVERYTHING, parse_mix, source_of_each

    console = Console("sft", quiet)
    start_from = str(base_of(model)) if from_base else model
    config, scalar = load_config(start_from)
    if scalar:  # before the run leaves anything on disk
        raise BadInput(start_from, "a reward model", "a language model")
    length = seq_len or config.max_seq_len
    vocabulary = load_tokenizer(start_from)
    check_vocabulary(config, vocabulary, start_from)
    names, held_out_names = expand(data or (STDIO,)), expand(eval_data or ())
    check_shared([*names, *held_out_names])
    sources = parse_mix(mix) if mix is not None else EVERYTHING
    of_each = source_of_each(sources, [Path(name) for name in names])
    with open_ledger(rejects if not rank_and_world()[0] else None) as ledger, console.progress("dialogs") as progress:
        on_bad_line = ledger.bad_line if on_bad == "skip" else None
        read, held_out = (
            [(name, *read_examples(name, vocabulary, length, form, on_bad_line, progress)) for name in part]
            for part in (names, held_out_names)
        )
    learned = [examples for _, examples, _ in read]
    if not any(learned):
        raise BadInput(", ".join(names), "no dialog to learn from", "at least one")
    judged_by = _by_file([(name, examples) for name, examples, _ in held_out])
    if show:
        _show(chain.from_iterable(learned), show, vocabulary)
        return
    where = pick_device(device)
    weighed = [Source(examples, sources[i].epochs) for examples, i in zip(learned, of_each, strict=True)]
    objective = FineTuning(weighed, length, batch, micro_batch, epochs, seed, judged_by)
    plan = finetuning_plan(objective.steps, lr, pick_dtype(dtype, where), save_every, eval_every)
    _tell_cut(console, learned, length)
    dialogs = sum(map(len, learned))
    console.say(f"{dialogs:,} dialogs; in all epochs {objective.rows:,} rows of {length} tokens, {plan.steps} steps")

    def make_model() -> AnyModel:
        start = load_language_model(start_from, device=where)
        start.config = replace(start.config, max_seq_len=length)
        return start

    authors = sum((examples.written_by for examples in learned), Counter[str]())
    settings = {"epochs": epochs, "batch": batch, "seq_len": length, "lr": lr, "seed": seed}
    more = {"mix": mix, "format": form, "written_by": dict(authors.most_common(AUTHORS)) or None}
    more["dtype"] = str(plan.dtype).removeprefix("torch.")
    run_training(
        console,
        out,
        settings=settings | {name: value for name, value in more.items() if value is not None},
        inputs={
            "data": [(name, sha256) for name, _, sha256 in read],
            "eval_data": [(name, sha256) for name, _, sha256 in held_out],
            "model": parent(start_from),
        },
        where=where,
        parameters=config.parameters,
        make_model=make_model,
        objective=objective,
        plan=plan,
        tokenizer=vocabulary,
        overwrite=overwrite,
        tensorboard=tensorboard,
    )


def _by_file(held_out: Iterable[tuple[str, Examples]]) -> dict[str, list[Example]]:
    """Held-out dialogs by the names of their files. Raises BadInput for a file without one."""
    from l2.train.mix import name_of

    judged_by: dict[str, list[Example]] = {}
    for name, examples in held_out:
        if not examples:
            raise BadInput(name, "no dialog to validate on", "at least one")
        judged_by.setdefault(name_of(Path(name), ()), []).extend(examples)
    return judged_by


def _tell_cut(console: Console, read: Sequence[Examples], length: int) -> None:
    """How many dialogs had to be cut to the context of `length` tokens."""
    if cut := sum(examples.cut_turns for examples in read):
        console.say(f"{cut:,} dialogs are longer than {length:,} tokens and keep the turns that fit")
    if cut := sum(examples.cut_answers for examples in read):
        console.say(f"{cut:,} dialogs have no answer that fits into {length:,} tokens; it was cut in two")


def _show(examples: Iterable[Example], count: int, tokenizer: Tokenizer) -> None:
    """Print dialogs with what is learned in green, or between ⟦ and ⟧ where there is no terminal."""
    from l2.align.examples import shown

    before, after = ("\033[32m", "\033[0m") if sys.stdout.isatty() else ("⟦", "⟧")
    for example in islice(examples, count):
        print("".join(f"{before}{text}{after}" if learned else text for text, learned in shown(example, tokenizer)))
