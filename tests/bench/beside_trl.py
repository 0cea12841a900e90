"""What the benchmarks beside TRL's trainers share: their options, the rounds, and what TRL wants besides ids."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from l2.model.device import keep_memory, use_all_cores
from tests.bench.generation import KINDS, SHAPES
from tests.bench.turns import Run, programs, rounds, table

Rate = Callable[[str, str], float]  # of a shape and a kind of number


def options(doc: str | None) -> argparse.ArgumentParser:
    """--shapes, --rounds, --trl and --peer."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--shapes", nargs="+", default=["8M"], choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trl", choices=KINDS, help="print TRL's rate of the first shape, nothing else")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    return parser


def ready(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What was asked; this process has all cores and keeps its memory."""
    asked = parser.parse_args()
    keep_memory()
    use_all_cores()
    return asked


def compare(asked: argparse.Namespace, ours: Rate, theirs: Rate, title: str, unit: str, **fields: object) -> None:
    """All contenders in turns; with --trl, TRL's rate alone. `fields` are what a peer's command may name."""
    if asked.trl:
        print(f"\n{theirs(asked.shapes[0], asked.trl):.1f}")
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {asked.rounds} rounds")
    for shape in asked.shapes:
        runs: dict[str, Run] = {}
        for kind in KINDS:
            runs[f"l2 {kind}"] = partial(ours, shape, kind)
            peers = programs(asked.peer, shape=shape, kind=kind, **fields)
            runs |= {f"{name} {kind}": run for name, run in peers.items()}
        table(f"{shape}, {title}", rounds(runs, asked.rounds), unit)


def be_silent() -> None:
    """What TRL, transformers and datasets would print may end with a number."""
    from datasets.utils.logging import disable_progress_bar

    logging.disable(logging.WARNING)
    disable_progress_bar()


def tokenizer() -> Any:
    """A trainer wants one, though all is ids already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, "<unk>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )
