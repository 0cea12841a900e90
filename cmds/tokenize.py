"""l2 tokenize."""

from __future__ import annotations

from typing import Annotated

import typer

from cmds.console import Console
from cmds.options import Inputs, Out, Quiet


def tokenize(
    out: Out,
    tokenizer: Annotated[str, typer.Option("--tokenizer", help="tokenizer.model, or a checkpoint directory.")],
    files: Inputs = None,
    name: Annotated[str, typer.Option("--name", help="Shards are called NAME-00000.bin, ...")] = "train",
    shard_tokens: Annotated[
        int, typer.Option("--shard-tokens", min=1, max=2**31 - 1, help="Tokens a shard at most, under 2^31 (ours).")
    ] = 100_000_000,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes; the bytes are the same for any number.")] = 1,
    quiet: Quiet = False,
) -> None:
    """Turn documents into token shards: BOS, tokens, EOS of each. Prints the paths of the shards.

    A document is never split, so one longer than --shard-tokens makes a longer shard. A copy of the tokenizer is put
    beside the shards, so that pretrain needs nothing else.

    Example: l2 tokenize docs.jsonl --tokenizer tokenizer.model --out data
    """
    from l2.files.jsonl import read_records
    from l2.tokens.shards import write_shards
    from l2.tokens.tokenizer import load_tokenizer

    console = Console("tokenize", quiet)
    vocabulary = load_tokenizer(tokenizer)
    documents = read_records(files or (), required=["text"])
    with console.progress("documents") as progress:
        paths = write_shards(
            documents, vocabulary, out, name, shard_tokens=shard_tokens, jobs=jobs, on_progress=progress
        )
    print(*paths, sep="\n")
