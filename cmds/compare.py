"""l2 compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cmds.console import Console
from cmds.options import Device, Inputs, Output, Quiet
from cmds.sampling import BatchSize, Rm
from l2.files.errors import UsageError

if TYPE_CHECKING:
    from l2.eval.compare import Item, Pair


def compare(
    files: Inputs = None,
    a: Annotated[
        str | None, typer.Option("--a", help="One model's answers: samples, one a prompt.", show_default=False)
    ] = None,
    b: Annotated[
        str | None, typer.Option("--b", help="The other's, to the same prompts (the same ids).", show_default=False)
    ] = None,
    rm: Rm = None,
    tie_margin: Annotated[
        float, typer.Option("--tie-margin", min=0.0, help="Scores this close, in raw logits, are a tie (ours).")
    ] = 0.0,
    judge: Annotated[
        str | None,
        typer.Option(
            "--judge",
            help='Shell command: lines {"id", "prompt", "a", "b"} in; for each, {"winner": "a", "b" or "tie"} out.',
            show_default=False,
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            "--endpoint", help="Chat model that judges: URL or URL#NAME, OpenAI-compatible.", show_default=False
        ),
    ] = None,
    output: Output = "-",
    append: Annotated[
        str | None, typer.Option("--append", help="Add the results to this file, too.", show_default=False)
    ] = None,
    samples: Annotated[
        str | None, typer.Option("--samples", help="What came of each prompt, as JSONL.", show_default=False)
    ] = None,
    batch_size: BatchSize = 32,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Compare two models' answers: how often A wins, ties and loses, with 95 % intervals (Wilson, over prompts), in all
    and by category, turns and length (paper §3.4.2). The judge is one --rm, or two named helpful and safe (gated);
    a --judge command or a model at --endpoint, which sees each pair in both orders and has to prefer the same answer
    twice; or people, whose ratings are FILES.

    The fields of FILES say what people rated: preference, 1 (A much better) to 7 (B much better), by several raters
    (median; agreement is Gwet's AC2), with or without --a and --b. safety, 1 to 5: violations by majority vote (§4.4).
    quality, 1 to 7, with --a that l2 score made: the reward models against people (Figure 29). violating, with person,
    hours and mitigated: a red team's sessions; gamma is violating prompts per person-hour (§4.3). Ratings have an id
    and a rater; model, category, turns and batch where known.

    Example: l2 compare --a v2.jsonl --b v1.jsonl --rm helpful=runs/helpful-rm --rm safe=runs/safe-rm
    """
    from l2.eval.compare import Measured, match, measure, model_name, result_records
    from l2.eval.ratings import measure_ratings
    from l2.eval.tables import metric_table
    from l2.files.jsonl import append_records, check_outputs, read_records, write_records

    automatic = _is_automatic(rm, judge, endpoint, a, b, files)
    if tie_margin and not rm:
        raise UsageError("--tie-margin is of --rm: other judges say themselves what a tie is")
    inputs = [path for path in (a, b, *(files or ())) if path is not None]
    check_outputs(inputs, {"--output": output, "--samples": samples, "--append": append})
    console = Console("compare", quiet)
    ours = None if a is None else list(read_records([a]))
    theirs = None if b is None else list(read_records([b]))
    pairs = None if ours is None or theirs is None else match(ours, theirs)
    ratings = [] if automatic else list(read_records(files or ()))
    if automatic and pairs is not None:
        items, protocol = _judged(pairs, rm, tie_margin, judge, endpoint, batch_size, device, console)
        found = [Measured("answers", None, None, protocol, items, measure(items))]
    else:
        found = measure_ratings(ratings, ours, pairs)
    if pairs is not None and ours is not None and theirs is not None:
        first, second = model_name(ours, str(a)), model_name(theirs, str(b))
        found = [measured._replace(model=first, baseline=second) for measured in found]
    elif ours is not None:
        found = [measured._replace(model=model_name(ours, str(a))) for measured in found]
    results = []
    for each in found:
        against = "" if each.baseline is None else f" (a) against {each.baseline} (b)"
        subject = each.task if each.model is None else f"{each.task}: {each.model}{against}"
        console.say(f"{subject}; {each.protocol}\n{metric_table(each.metrics)}")
        results += result_records(each, [*(ours or ()), *(theirs or ()), *ratings])
    if samples is not None:
        write_records(samples, (item for each in found for item in each.items))
    write_records(output, results)
    if append is not None:
        append_records(append, results)


def _is_automatic(
    rm: list[str] | None, judge: str | None, endpoint: str | None, a: str | None, b: str | None, files: list[str] | None
) -> bool:
    """Whether a machine judges, not people. Raises UsageError for options that contradict one another."""
    judges = sum(map(bool, (rm, judge, endpoint)))
    if judges > 1:
        raise UsageError("give one kind of judge: --rm, --judge, --endpoint, or files of ratings")
    if judges and (a is None or b is None or files):
        raise UsageError("a judge reads two files of answers, --a and --b, and no ratings")
    if b is not None and a is None:
        raise UsageError("--b goes with --a")
    if b is not None and not judges and not files:
        raise UsageError("nobody judges: give --rm, --judge or --endpoint, or files of ratings (- is stdin)")
    return judges == 1


def _judged(
    pairs: list[Pair],
    rm: list[str] | None,
    tie_margin: float,
    judge: str | None,
    endpoint: str | None,
    batch_size: int,
    device: str,
    console: Console,
) -> tuple[list[Item], str]:
    """The items of the judge that was asked for, and its protocol."""
    from cmds.sampling import open_rewards, rm_directories
    from l2.align.rejection import check_judges
    from l2.eval.judges import by_command, by_endpoint, by_rewards, served_model
    from l2.tokens.tokenizer import load_tokenizer

    if judge:
        return by_command(pairs, judge), f"{judge}, both orders"
    with console.progress("answers") as progress:
        if endpoint:
            url, served = served_model(endpoint)
            return by_endpoint(pairs, url, served, batch_size, progress), f"{url}#{served}, both orders"
        directories = rm_directories(rm)
        check_judges(directories)
        tokenizer = load_tokenizer(next(iter(directories.values())))
        models = open_rewards(rm, device, tokenizer)
        items = by_rewards(pairs, models, tokenizer, tie_margin, batch_size, progress)
        named = ", ".join(f"{name}={directory}" for name, directory in directories.items())
        return items, f"{named}, ties within {tie_margin:g}"
