"""What pretrain, sft and rm-train share: inputs by hash, the run directory, the bar, the last line on stdout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmds.console import Console, from_environment, rank_and_world
from l2.files.errors import UsageError
from l2.files.jsonl import STDIO, Record, expand, read_records
from l2.files.manifest import Inputs, open_run, sha256_file, sha256_records

if TYPE_CHECKING:
    import torch

    from l2.model.checkpoint import AnyModel
    from l2.tokens.tokenizer import Tokenizer
    from l2.train.loop import Draw, Objective, Settings


def read_inputs(paths: Sequence[str] | None, required: Sequence[str]) -> tuple[list[Record], list[tuple[str, str]]]:
    """All records of `paths` (none: stdin), and (path, SHA-256) of where they came from."""
    records: list[Record] = []
    inputs: list[tuple[str, str]] = []
    names = expand(paths or (STDIO,))
    check_shared(names)
    for name in names:
        part = list(read_records([name], required=required))
        # a pipe can be read once only
        inputs.append((name, sha256_file(name) if Path(name).is_file() else sha256_records(part)))
        records += part
    return records, inputs


def check_shared(inputs: Sequence[str]) -> None:
    """Raises UsageError where several processes would have to read one pipe."""
    for name in inputs:
        if rank_and_world()[1] > 1 and (name == STDIO or Path(name).is_fifo()):
            raise UsageError("the processes that torchrun started can't share a pipe; give the data as a file")


def parent(directory: str) -> list[tuple[str, str]]:
    """(directory, SHA-256 of its weights): a model that a run builds on."""
    from l2.model.checkpoint import model_sha256

    return [(directory, model_sha256(directory))]


def tell_overlap(console: Console, inputs: Inputs) -> None:
    """Warn of held-out files that are trained on as well."""
    for learned, held_out in (("shards", "val_shards"), ("data", "eval_data"), ("prompts", "eval_prompts")):
        known = {sha256 for _, sha256 in inputs.get(learned, ())}
        for name, sha256 in inputs.get(held_out, ()):
            if sha256 in known:
                console.say(f"{name} is trained on too: its val_ numbers say nothing of what is new")


def told_validation(line: Mapping[str, Any]) -> str:
    """What a log line says of held-out data: "val_loss 2.3105 (web 2.4120, wiki 2.2230), ..."."""
    of_all = {name: value for name, value in line.items() if name.startswith("val_") and "/" not in name}
    parts = []
    for name, value in of_all.items():
        each = [f"{key.partition('/')[2]} {of:.4f}" for key, of in line.items() if key.startswith(name + "/")]
        parts.append(f"{name} {value:.4f}" + (f" ({', '.join(each)})" if each else ""))
    return ", ".join(parts)


def finetuning_plan(steps: int, lr: float, dtype: torch.dtype, save_every: int, eval_every: int) -> Settings:
    """How sft and rm-train train: a warm-up of 3 % (paper A.3.4, of reward models), all else as in pretraining."""
    from l2.train.loop import Settings
    from l2.train.schedule import warmup_of

    return Settings(steps, lr, warmup_of(steps, 0.03), dtype=dtype, save_every=save_every, eval_every=eval_every)


def run_training(
    console: Console,
    out: str,
    *,
    settings: Mapping[str, Any],
    inputs: Inputs,
    where: torch.device,
    parameters: int,
    make_model: Callable[[], AnyModel],
    objective: Objective,
    plan: Settings,
    tokenizer: Tokenizer,
    overwrite: bool,
    draw: Draw | None = None,
    tensorboard: bool = False,
) -> None:
    """Train into `out` unless that is done already, and print `out` as the only line on stdout.

    Under torchrun every rank calls this with the same arguments, and the first one speaks and writes.
    """
    from l2.model.device import keep_memory, use_all_cores
    from l2.train.board import Board
    from l2.train.loop import told_spike, train
    from l2.train.plan import check_room
    from l2.train.ranks import open_shared, start_ranks

    tell_overlap(console, inputs)
    check_room(parameters, where, rank_and_world()[1], from_environment("LOCAL_WORLD_SIZE", 1, 1))
    keep_memory()
    threads = use_all_cores()
    board = Board(Path(out)) if tensorboard and not rank_and_world()[0] else None
    with (
        start_ranks(where) as ranks,
        open_shared(ranks, lambda: open_run(out, settings, inputs, overwrite=overwrite)) as run,
    ):
        if run.state == "finished":
            console.say(f"{out}: already finished; nothing to do (--overwrite starts again)")
        else:
            model = make_model()
            if ranks.first:
                run.save(device=str(where), threads=threads, ranks=ranks.world, parameters=model.config.parameters)

            def on_log(line: dict[str, Any]) -> None:
                if board is not None:
                    board.write(line)
                if "spike" in line:
                    console.say(f"step {line['step']}: {told_spike(line)}; {line['spike']} (--on-spike)")
                if "val_loss" in line:
                    console.say(f"step {line['step']}: {told_validation(line)}")

            with console.progress("steps") as progress:
                last = train(
                    model, objective, plan, run, tokenizer,
                    ranks=ranks, draw=draw, on_progress=progress, on_log=on_log,
                )  # fmt: skip
            if ranks.first:
                run.finish(result=last)
            shown = {k: v for k, v in last.items() if k.endswith(("loss", "accuracy"))}
            console.say(f"{out}: " + (", ".join(f"{name} {value:.4f}" for name, value in shown.items()) or "untrained"))
        if ranks.first:
            print(out)
