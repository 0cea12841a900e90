"""l2 tok-train."""

from __future__ import annotations

from typing import Annotated

import typer

from cmds.console import Console
from cmds.options import Inputs, Quiet


def tok_train(
    files: Inputs = None,
    vocab_size: Annotated[
        int, typer.Option("--vocab-size", min=260, help="Pieces, 259 of them fixed (paper §2.2: 32,000).")
    ] = 32_000,
    output: Annotated[str, typer.Option("-o", "--output", help="The SentencePiece model.")] = "tokenizer.model",
    quiet: Quiet = False,
) -> None:
    """Train a SentencePiece BPE tokenizer on documents: byte fallback, single digits, no normalisation (paper §2.2).

    Prints the path of the model. The same documents give the same bytes.

    Example: l2 tok-train docs.jsonl --vocab-size 4096 -o tokenizer.model
    """
    from l2.files.jsonl import read_records
    from l2.tokens.tokenizer import train_tokenizer

    console = Console("tok-train", quiet)
    texts = (record.need("text") for record in read_records(files or (), required=["text"]))
    with console.progress("documents") as progress:
        tokenizer = train_tokenizer(texts, vocab_size, output, on_progress=progress)
    console.say(f"{output}: {tokenizer.vocab_size:,} pieces, SHA-256 {tokenizer.sha256[:12]}")
    print(output)
