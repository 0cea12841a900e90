"""Options that several commands share, each worded once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import typer

from l2.files.errors import UsageError

Inputs = Annotated[
    list[str] | None, typer.Argument(help="JSONL files (.gz, .zst); none or - is stdin.", show_default=False)
]
Output = Annotated[str, typer.Option("-o", "--output", help="JSONL file (.gz, .zst); - is stdout.")]
Out = Annotated[str, typer.Option("--out", help="Output directory.")]
Model = Annotated[str, typer.Option("--model", help="Checkpoint directory (Hugging Face layout).")]
Seed = Annotated[
    int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of everything random. Same seed, same bytes.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda[:N]. auto: a GPU where there is one.")]
Dtype = Annotated[str, typer.Option("--dtype", help="auto, float32 or bfloat16. auto: bfloat16 where it is fast.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Nothing on stderr but errors.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start again, replacing what --out holds.")]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="The log for TensorBoard too, in OUT/tensorboard (needs tensorboardX).")
]
OnBad = Annotated[
    Literal["stop", "skip"],
    typer.Option("--on-bad", help="A bad input line: stop (exit 65), or skip (into --rejects)."),
]
Rejects = Annotated[
    str | None, typer.Option("--rejects", help="Ledger of everything dropped, as JSONL.", show_default=False)
]
_TOXICITY_HELP = (
    "Score toxicity: by a list of terms, one a line (the share of sentences with one; ours), or by a classifier (the "
    "mean over lines; Figure 13): a fastText file, or a Hugging Face directory, which needs transformers. What stands "
    "at the path tells which; LABEL is toxic where none is given."
)
Toxicity = Annotated[
    str | None,
    typer.Option("--toxicity", metavar="[LABEL=]PATH", show_default=False, help=_TOXICITY_HELP),
]
ToxicityOfAnswers = Annotated[
    str | None,
    typer.Option(
        "--toxicity", metavar="[LABEL=]PATH", show_default="a short list of our own, weak", help=_TOXICITY_HELP
    ),
]


def named_files(words: Sequence[str]) -> dict[str, str]:
    """{name: file} of --task options."""
    named: dict[str, str] = {}
    for word in words:
        name, _, path = word.partition("=")
        if not (name and path):
            raise UsageError(f"--task {word}: write NAME=FILE")
        if name in named:
            raise UsageError(f"--task {name} is given twice")
        named[name] = path
    return named
