"""l2 evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmds.console import Console
from cmds.options import Device, Model, Output, Quiet, Seed
from cmds.sampling import BatchSize, Dtype, Endpoint, MaxNewTokens, Rm, Temperature
from l2.files.errors import UsageError

if TYPE_CHECKING:
    from l2.eval.tasks import Task
    from l2.generate.engine import Sampler
    from l2.model.transformer import LanguageModel, ScalarModel
    from l2.tokens.tokenizer import Tokenizer


def evaluate(
    model: Model,
    task: Annotated[list[str], typer.Option("--task", help="NAME=FILE of JSONL; its fields say what is asked.")],
    rm: Rm = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="Model to beat on prompts, judged by --rm.", show_default=False)
    ] = None,
    output: Output = "-",
    append: Annotated[
        str | None, typer.Option("--append", help="Add the results to this file, too.", show_default=False)
    ] = None,
    samples: Annotated[
        str | None, typer.Option("--samples", help="What came of each record, as JSONL.", show_default=False)
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print each task's first prompt and its ids to stderr.")] = False,
    chat: Annotated[
        bool, typer.Option("--chat/--raw", help="Exact-match prompts as a dialog, or as they are.")
    ] = False,
    attention: Annotated[
        bool,
        typer.Option("--attention", help="How much attention goes to the instruction, too (constraints; Figure 10)."),
    ] = False,
    temperature: Temperature = 1.0,
    max_new_tokens: MaxNewTokens = 256,
    batch_size: BatchSize = 32,
    endpoint: Endpoint = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
) -> None:
    """Measure a model: one result record a metric, each with its standard error. The fields of a task's file decide:

    text: bits per byte. question, choices, answer: accuracy by log-likelihood per character (Llama 1). prompt, target:
    exact match of greedy answers. prompt, chosen, rejected: a reward model's accuracy, by rating, safety
    and source too, calibration, unsafe recall, and what predicts as well. prompt alone: mean reward of
    sampled answers by each --rm, and the win rate over --baseline. messages, constraint: share of turns that obey the
    instruction of the first turn (Table 30).

    Example: l2 evaluate --model runs/chat --task val=val.jsonl quiz=quiz.jsonl --append results.jsonl
    """
    from l2.eval.subject import Subject
    from l2.eval.tasks import check, read_task, result_records, run_task
    from l2.files.jsonl import append_records, write_records
    from l2.generate.engine import Sampling
    from l2.model.checkpoint import model_sha256

    console = Console("evaluate", quiet)
    tasks = [read_task(*named) for named in _named(task).items()]
    name, tested, tokenizer, rewards, beaten = _open(model, endpoint, rm, baseline, device, dtype)

    def show_ids(ids: Sequence[int]) -> None:
        if show:
            console.say(f"{tokenizer.decode(ids)!r} is {list(ids)}")

    sampling = Sampling(temperature, 1.0, max_new_tokens, seed)
    subject = Subject(name, tested, tokenizer, sampling, batch_size, chat, rewards, beaten, show_ids, attention)
    check(subject, tasks)
    sha256 = None if endpoint else model_sha256(model)
    items: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for each in tasks:
        with console.progress(each.name) as progress:
            came, metrics = run_task(subject, each, progress)
        _tell(console, each, came, metrics)
        items += came
        results += result_records(subject, each, metrics, sha256)
    if samples is not None:
        write_records(samples, items)
    write_records(output, results)
    if append is not None:
        append_records(append, results)


def _named(words: Sequence[str]) -> dict[str, str]:
    """{name: file} of --task options."""
    named: dict[str, str] = {}
    for word in words:
        name, _, path = word.partition("=")
        if not (name and path):
            raise UsageError(f"--task {word}: write NAME=FILE")
        if name in named:
            raise UsageError(f"--task {name} is given twice")
        named[name] = path
    return named


def _open(
    model: str, endpoint: str | None, rm: Sequence[str] | None, baseline: str | None, device: str, dtype: str
) -> tuple[str, Sampler | ScalarModel, Tokenizer, dict[str, ScalarModel], tuple[str, LanguageModel] | None]:
    """Name and model to measure, its tokenizer, the judges and the baseline; reward models in fp32."""
    from cmds.sampling import open_policy, open_rewards, open_sampler
    from l2.model.checkpoint import load_config
    from l2.tokens.tokenizer import load_tokenizer

    if endpoint is None and load_config(model)[1]:
        if rm or baseline:
            raise UsageError(f"--rm and --baseline judge answers, and {model} is a reward model, which gives none")
        tokenizer = load_tokenizer(model)
        return model, open_rewards([f"reward={model}"], device, tokenizer)["reward"], tokenizer, {}, None
    policy, tokenizer, name = open_sampler(model, endpoint, device, dtype)
    beaten = None
    if baseline is not None:
        other, others = open_policy(baseline, device, dtype)
        if others.sha256 != tokenizer.sha256:
            raise UsageError(f"--baseline {baseline} has another tokenizer than the model")
        beaten = baseline, other
    return name, policy, tokenizer, open_rewards(rm, device, tokenizer), beaten


def _tell(console: Console, task: Task, items: Sequence[dict[str, Any]], metrics: Any) -> None:
    """One line of metrics or, of preferences, a table; and what else a reader must know of them."""
    from l2.eval.pairs import left_out, suspicions
    from l2.eval.sampled import turns_to_judge
    from l2.eval.tables import metric_table

    if task.kind == "preferences":
        console.say(f"{task.name}:\n{metric_table(metrics)}")
        if left := left_out(task.records):
            console.say(f"{task.name}: {left:,} pairs left out, of which the rejected answer alone is safe")
        for sentence in suspicions(items):
            console.say(f"warning: {task.name}: {sentence}; too little to tell them apart")
        return
    shown = (
        f"{name} {e.value:.4f}" + ("" if e.stderr is None else f" ± {e.stderr:.4f}") for name, e in metrics.items()
    )
    console.say(f"{task.name}: {', '.join(shown)}")
    if task.kind == "instructions":
        unasked = turns_to_judge(task.records) - len(items)
        if unasked:
            console.say(f"{task.name}: {unasked} turns were not asked, since their dialogs outgrew the model's context")
