"""l2 tok-train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cmds.console import Console
from cmds.options import Inputs, Quiet, Seed
from l2.files.errors import UsageError

if TYPE_CHECKING:
    from l2.tokens.sample import Sample
    from l2.tokens.tokenizer import Tokenizer


def tok_train(
    files: Inputs = None,
    vocab_size: Annotated[
        int, typer.Option("--vocab-size", min=260, help="Pieces, 259 of them fixed (paper §2.2: 32,000).")
    ] = 32_000,
    output: Annotated[str, typer.Option("-o", "--output", help="The SentencePiece model.")] = "tokenizer.model",
    sample_bytes: Annotated[
        int,
        typer.Option(
            "--sample-bytes", min=4192, help="Bytes of lines to learn from, drawn at random; bounds the memory (ours)."
        ),
    ] = 500_000_000,
    report: Annotated[
        str | None,
        typer.Option("--report", help="Characters a token, bytes, round trips by source, as JSON.", show_default=False),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", help="For --report: another tokenizer.model to compare with.", show_default=False),
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Train a SentencePiece BPE tokenizer on documents: byte fallback, single digits, no normalisation (paper §2.2).

    Learns from at most --sample-bytes of lines, each as likely as any other, and says how much that was. Prints the
    path of the model. The same documents and seed give the same bytes, however files cut them.

    Example: l2 tok-train docs.jsonl --vocab-size 4096 -o tokenizer.model --report tokenizer.json
    """
    from l2.files.jsonl import check_outputs, read_records
    from l2.tokens.sample import sample_lines
    from l2.tokens.tokenizer import load_tokenizer, train_tokenizer

    if reference is not None and report is None:
        raise UsageError("--reference goes with --report")
    check_outputs([*(files or ()), *([reference] if reference else [])], {"--output": output, "--report": report})
    for option, path in (("--output", output), ("--report", report)):
        if path == "-":
            raise UsageError(f"{option} -: the path of the model goes to stdout; name a file")
    other = load_tokenizer(reference) if reference is not None else None
    console = Console("tok-train", quiet)
    documents = read_records(files or (), required=["text"])
    with console.progress("documents") as progress:
        sample = sample_lines(documents, sample_bytes, seed, on_progress=progress)
    if len(sample.lines) < sample.lines_read:
        console.say(f"learning from {sample.bytes:,} of {sample.bytes_read:,} bytes (--sample-bytes)")
    tokenizer = train_tokenizer((text for _, text in sample.lines), vocab_size, output)
    console.say(f"{output}: {tokenizer.vocab_size:,} pieces, SHA-256 {tokenizer.sha256[:12]}")
    if report is not None:
        _report(console, report, sample, sample_bytes, seed, {"trained": tokenizer, "reference": other})
    print(output)


def _report(
    console: Console, path: str, sample: Sample, most: int, seed: int, tokenizers: dict[str, Tokenizer | None]
) -> None:
    """Write what each tokenizer makes of the sample."""
    import orjson

    from l2.files.atomic import write_atomic
    from l2.tokens.report import measure_tokenizer

    found = {name: measure_tokenizer(t, sample.lines) for name, t in tokenizers.items() if t is not None}
    for name, row in found.items():
        console.say(f"{name}: {row['all']['characters_per_token']:.3f} characters a token")
    drawn = {
        "lines": len(sample.lines),
        "bytes": sample.bytes,
        "lines_read": sample.lines_read,
        "bytes_read": sample.bytes_read,
        "lines_too_long": sample.skipped,
        "sample_bytes": most,
        "seed": seed,
    }
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    write_atomic(path, orjson.dumps({"sample": drawn, "tokenizers": found}, option=options))
