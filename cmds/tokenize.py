"""l2 tokenize."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from cmds.console import Console
from cmds.options import Inputs, Quiet
from l2.files.errors import UsageError


def tokenize(
    files: Inputs = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="tokenizer.model, or a checkpoint directory.", show_default=False)
    ] = None,
    out: Annotated[str | None, typer.Option("--out", help="Output directory.", show_default=False)] = None,
    name: Annotated[str, typer.Option("--name", help="Shards are called NAME-00000.bin, ...")] = "train",
    shard_tokens: Annotated[
        int, typer.Option("--shard-tokens", min=1, max=2**31 - 1, help="Tokens a shard at most, under 2^31 (ours).")
    ] = 100_000_000,
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, help="Processes that encode; the bytes are the same for any number.")
    ] = 1,
    inspect: Annotated[bool, typer.Option("--inspect", help="FILES are shards: print their headers as JSON.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="The same, after reading all tokens: header, length, checksum, ids.")
    ] = False,
    range_: Annotated[
        str | None,
        typer.Option("--range", help="With --inspect: ids and text of the tokens A:B.", show_default=False),
    ] = None,
    raw_uint16: Annotated[
        bool, typer.Option("--raw-uint16", help="The shards have no header: nanoGPT's and llama2.c's .bin.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Turn documents into token shards: BOS, tokens, EOS of each. Prints the paths of the shards.

    A document is never split, so one longer than --shard-tokens makes a longer shard. A copy of the tokenizer is put
    beside the shards, so that pretrain needs nothing else. Shards of the same --name are replaced. The ids are
    SentencePiece's own, several times as fast for a tokenizer with Llama's settings.

    Example: l2 tokenize docs.jsonl --tokenizer tokenizer.model --out data --jobs 4; l2 tokenize --verify data/*.bin
    """
    if inspect or verify:
        return _inspect(files or [], tokenizer, range_, verify, raw_uint16)
    for given, option in ((range_, "--range"), (raw_uint16, "--raw-uint16")):
        if given:
            raise UsageError(f"{option} goes with --inspect")
    for needed, option in ((tokenizer, "--tokenizer"), (out, "--out")):
        if needed is None:
            raise UsageError(f"{option} is needed")
    assert tokenizer is not None and out is not None

    from l2.files.jsonl import read_records
    from l2.tokens.cached import read_rules
    from l2.tokens.shards import shards_named, write_shards
    from l2.tokens.tokenizer import MODEL_FILE, load_tokenizer

    console = Console("tokenize", quiet)
    vocabulary = load_tokenizer(tokenizer)
    if reason := read_rules(vocabulary.model_bytes).why_plain:
        console.say(f"{tokenizer}: {reason}, so SentencePiece encodes each text whole, which is slower")
    beside = Path(out) / MODEL_FILE
    if beside.exists() and (found := load_tokenizer(beside).sha256) != vocabulary.sha256:
        raise UsageError(
            f"{beside} is {found[:8]}, which made the shards there, not {vocabulary.sha256[:8]}; choose another --out"
        )
    if older := len(shards_named(out, name)):
        console.say(f"{older} shards {name}-*.bin in {out} will be replaced")
    documents = read_records(files or (), required=["text"])
    with console.progress("documents") as progress:
        paths = write_shards(
            documents, vocabulary, out, name, shard_tokens=shard_tokens, jobs=jobs, on_progress=progress
        )
    print(*paths, sep="\n")


def _inspect(files: list[str], tokenizer: str | None, range_: str | None, verify: bool, raw_uint16: bool) -> None:
    """Print a line of JSON for each shard."""
    import orjson

    from l2.files.jsonl import expand
    from l2.tokens.shards import Shard, check_tokenizer
    from l2.tokens.tokenizer import MODEL_FILE, load_tokenizer

    if not files or "-" in files:
        raise UsageError("name the shards (.bin) to look into")
    for path in expand(files):
        shard = Shard(path, raw_uint16)
        shown = shard.header()
        beside = Path(path).parent / MODEL_FILE
        model = tokenizer or (str(beside) if beside.exists() else None)
        vocabulary = load_tokenizer(model) if model else None
        if vocabulary:
            check_tokenizer([shard], vocabulary.sha256)
        if verify:
            shown["verified"] = shard.verify(vocabulary.vocab_size if vocabulary else shard.vocab_size or 2**32)
        if range_ is not None:
            if vocabulary is None:
                raise UsageError(f"{beside}: no such file; say with --tokenizer what made the shard")
            shown |= shard.excerpt(vocabulary, *_ends(range_, shard.token_count))
        print(orjson.dumps(shown).decode())


def _ends(text: str, count: int) -> tuple[int, int]:
    """A and B of "A:B", either of which may be left out."""
    found = re.fullmatch(r"(\d*):(\d*)", text, re.ASCII)
    if found is None:
        raise UsageError(f"--range {text!r}: give A:B, the first token and the one behind the last, from 0")
    first, last = found.groups()
    return int(first or 0), int(last or count)
