"""What pretrain, sft and rm-train share: inputs by hash, the run directory, the bar, the last line on stdout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmds.console import Console
from l2.files.jsonl import STDIO, Record, expand, read_records
from l2.files.manifest import Inputs, open_run, sha256_file, sha256_records

if TYPE_CHECKING:
    from l2.model.checkpoint import AnyModel
    from l2.tokens.tokenizer import Tokenizer
    from l2.train.loop import Objective, Settings


def read_inputs(paths: Sequence[str] | None, required: Sequence[str]) -> tuple[list[Record], list[tuple[str, str]]]:
    """All records of `paths` (none: stdin), and (path, SHA-256) of where they came from."""
    records: list[Record] = []
    inputs: list[tuple[str, str]] = []
    for name in expand(paths or (STDIO,)):
        part = list(read_records([name], required=required))
        # a pipe can be read once only
        inputs.append((name, sha256_file(name) if Path(name).is_file() else sha256_records(part)))
        records += part
    return records, inputs


def parent(directory: str) -> list[tuple[str, str]]:
    """(directory, SHA-256 of its weights): a model that a run builds on."""
    from l2.model.checkpoint import model_sha256

    return [(directory, model_sha256(directory))]


def run_training(
    console: Console,
    out: str,
    *,
    settings: Mapping[str, Any],
    inputs: Inputs,
    make_model: Callable[[], AnyModel],
    objective: Objective,
    plan: Settings,
    tokenizer: Tokenizer,
    overwrite: bool,
) -> None:
    """Train into `out` unless that is done already, and print `out` as the only line on stdout."""
    from l2.model.device import keep_memory, use_all_cores
    from l2.train.loop import train

    keep_memory()
    threads = use_all_cores()
    with open_run(out, settings, inputs, overwrite=overwrite) as run:
        if run.state == "finished":
            console.say(f"{out}: already finished; nothing to do (--overwrite starts again)")
        else:
            model = make_model()
            run.save(device=str(model.device), threads=threads, parameters=model.config.parameters)
            with console.progress("steps") as progress:
                last = train(model, objective, plan, run, tokenizer, on_progress=progress)
            run.finish(result=last)
            shown = {k: v for k, v in last.items() if k.endswith(("loss", "accuracy"))}
            console.say(f"{out}: " + ", ".join(f"{name} {value:.4f}" for name, value in shown.items()))
    print(out)
