"""l2 convert."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cmds.console import Console
from cmds.options import Overwrite, Quiet
from l2.files.atomic import atomic_dir, atomic_file
from l2.files.errors import L2Error, UsageError

if TYPE_CHECKING:
    from l2.model.convert import Proof
    from l2.tokens.tokenizer import Tokenizer


def convert(
    source: Annotated[
        str, typer.Argument(help="Checkpoint: a Hugging Face directory, or one of Meta's (params.json).")
    ],
    out: Annotated[str, typer.Argument(help="Directory to write; for llama2.c a file (its tokenizer goes beside it).")],
    to: Annotated[
        Literal["hf", "meta", "llama2.c", "llama2.c-v0"],
        typer.Option("--to", help="Layout. llama2.c is its version 1 in fp32; llama2.c-v0 is what its run.c reads."),
    ],
    parts: Annotated[
        int, typer.Option("--parts", min=1, help="--to meta: files of a model-parallel group (ours).")
    ] = 1,
    context: Annotated[
        int | None,
        typer.Option(
            "--context", min=1, help="From Meta, whose files don't tell: longest input; default: 4096 (paper)."
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="tokenizer.model; default: the one in, or one above, SOURCE."),
    ] = None,
    threshold: Annotated[
        float, typer.Option("--threshold", min=0.0, help="Largest difference of a logit that passes (ours).")
    ] = 1e-4,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Convert a checkpoint, read back what was written, and prove it: prints the proof as JSON, exits 1 without it.

    Weights are moved, never computed with: they keep their dtype (llama2.c's files are fp32), and there and back gives
    the same bytes. Meta's .pth files are read as tensors alone (weights_only).

    Example: l2 convert Llama-2-7b-chat runs/llama --to hf
    """
    from l2.model.checkpoint import load_language_model, save_model
    from l2.model.convert import (
        MetaModel,
        open_llama2c,
        open_meta,
        prove,
        write_llama2c,
        write_llama2c_tokenizer,
        write_meta,
    )

    console = Console("convert", quiet)
    target = Path(out)
    beside = target.parent / "tokenizer.bin"
    places = [target] if to in ("hf", "meta") else [target, beside]
    if places == [beside, beside]:
        raise UsageError(f"{out} is the name of the tokenizer's file; choose another for the model's")
    for place in places:
        if place.exists() and not overwrite:
            raise UsageError(f"{place} exists; choose another place or give --overwrite")
    if parts != 1 and to != "meta":
        raise UsageError(f"--parts {parts} is for --to meta; --to {to} has no parts")
    meta = _is_meta(source)
    if context is not None and not meta:
        raise UsageError(f"--context {context} is for Meta's files; {source} tells its own")
    stored = open_meta(source, max_seq_len=context or 4096) if meta else load_language_model(source, dtype=None)
    model = stored.ours(source) if isinstance(stored, MetaModel) else stored
    vocabulary = _find_tokenizer(source, tokenizer)
    console.say(f"{source}: {model.config.parameters:,} parameters in {str(model.dtype).removeprefix('torch.')}")

    if to == "hf":
        with atomic_dir(target) as directory:
            save_model(model, directory, vocabulary)
            _tell(prove(stored, load_language_model(directory)), threshold)
    elif to == "meta":
        with atomic_dir(target) as directory:
            write_meta(model, directory, vocabulary, parts=parts)
            written = open_meta(directory, max_seq_len=model.config.max_seq_len)
            _tell(prove(stored, written), threshold)
    else:
        with atomic_file(target) as file, atomic_file(beside) as pieces:
            write_llama2c(model, file.name, version=0 if to == "llama2.c-v0" else 1)
            write_llama2c_tokenizer(vocabulary, pieces.name)
            _tell(prove(stored, open_llama2c(file.name)), threshold)


def _is_meta(source: str) -> bool:
    return (Path(source) / "params.json").exists() and not (Path(source) / "config.json").exists()


def _find_tokenizer(source: str, given: str | None) -> Tokenizer:
    """The tokenizer given, or the one in SOURCE, or the one above it, where Meta puts it."""
    from l2.tokens.tokenizer import MODEL_FILE, load_tokenizer

    places = [Path(given)] if given else [Path(source) / MODEL_FILE, Path(source).parent / MODEL_FILE]
    return load_tokenizer(next((place for place in places if place.exists()), places[0]))


def _tell(proof: Proof, threshold: float) -> None:
    """Print the proof as a record. Raises L2Error when the models differ: then nothing takes its final name."""
    import orjson

    print(orjson.dumps(proof._asdict()).decode())
    if not proof.max_logit_difference <= threshold:
        raise L2Error(
            f"what was written differs by {proof.max_logit_difference:.3g} in a logit; at most {threshold} passes"
        )
