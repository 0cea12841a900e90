"""l2 survey."""

from __future__ import annotations

from typing import Annotated

import typer

from cmds.console import Console
from cmds.options import Inputs, Output, Quiet, ToxicityOfAnswers


def survey(
    files: Inputs = None,
    toxicity: ToxicityOfAnswers = None,
    by: Annotated[
        str, typer.Option("--by", help="Fields that part the samples, with commas between them.")
    ] = "model,category,temperature",
    task: Annotated[str, typer.Option("--task", help="What the results are called.")] = "samples",
    output: Output = "-",
    append: Annotated[
        str | None, typer.Option("--append", help="Add the results to this file, too.", show_default=False)
    ] = None,
    quiet: Quiet = False,
) -> None:
    """What samples say of the models that wrote them, by --by.

    Self-BLEU of the answers to each prompt (Figure 21: low is diverse). Scores by each reward model that l2 score put
    down, 0 to 1: mean, quantiles, and the share in what was the low tail of the first model (Figure 20). Refusals, by
    rules on how an answer opens: of prompts that only sound dangerous they are false (Figure 33). Toxic answers.

    Example: l2 generate --model runs/chat --prompts prompts.jsonl -n 25 --temperature 0.7 | l2 survey
    """
    from l2.eval.survey import survey as surveyed
    from l2.eval.survey import survey_records
    from l2.eval.tables import metric_table
    from l2.files.columns import plain
    from l2.files.jsonl import append_records, check_outputs, read_records, write_records
    from l2.text.toxicity import OWN_WORDS, load_toxicity

    check_outputs(files or (), {"--output": output, "--append": append})
    console = Console("survey", quiet)
    samples = list(read_records(files or ()))
    groups = []
    for group in surveyed(samples, load_toxicity(toxicity or str(OWN_WORDS)), list(filter(None, by.split(",")))):
        groups.append(group)
        named = ", ".join(f"{field} {plain(str(key))}" for field, key in group.keys.items())
        console.say(f"{named or 'all'}, {len(group.samples):,} samples\n{metric_table(group.metrics)}")
    results = survey_records(task, groups, samples, toxicity or OWN_WORDS.name)
    write_records(output, results)
    if append is not None:
        append_records(append, results)
