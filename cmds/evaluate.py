"""l2 evaluate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from cmds.console import Console
from cmds.options import Device, Output, Quiet, Seed, ToxicityOfAnswers, named_files
from cmds.sampling import BatchSize, Dtype, Endpoint, Rm
from l2.files.errors import UsageError

if TYPE_CHECKING:
    from l2.eval.benchmarks.suite import Asking
    from l2.eval.metrics import Estimate
    from l2.eval.tasks import Task
    from l2.generate.engine import Sampler
    from l2.model.transformer import LanguageModel, ScalarModel
    from l2.tokens.tokenizer import Tokenizer

LONGEST = 256  # tokens of an answer to a task of one's own (ours)
MANY = 12  # metrics that are shown in one line


class _Run(NamedTuple):
    """What came of a task, by the model or from stored items."""

    task: str
    items: list[dict[str, Any]]
    metrics: dict[str, Estimate]
    settings: dict[str, Any]


def evaluate(
    model: Annotated[str | None, typer.Option("--model", help="Checkpoint directory.", show_default=False)] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="NAME=FILE or NAME=DIR: a benchmark's own files, or JSONL.", show_default=False),
    ] = None,
    protocol: Annotated[
        Literal["llama", "harness"],
        typer.Option("--protocol", help="Rules of benchmarks: the paper's, or lm-evaluation-harness's."),
    ] = "llama",
    shots: Annotated[
        int | None, typer.Option("--shots", min=0, help="Examples before each question.", show_default="the protocol's")
    ] = None,
    answers: Annotated[
        int, typer.Option("-n", "--answers", min=1, help="Answers to each question of a benchmark: pass@k, maj@n.")
    ] = 1,
    rm: Rm = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="Model to beat on prompts, judged by --rm.", show_default=False)
    ] = None,
    toxicity: ToxicityOfAnswers = None,
    unsafe_code: Annotated[
        bool, typer.Option("--unsafe-code", help="Run what the model programs without a sandbox, as you.")
    ] = False,
    output: Output = "-",
    append: Annotated[
        str | None, typer.Option("--append", help="Add the results to this file, too.", show_default=False)
    ] = None,
    samples: Annotated[
        str | None, typer.Option("--samples", help="What came of each record, as JSONL.", show_default=False)
    ] = None,
    rescore: Annotated[
        str | None, typer.Option("--rescore", help="A file of --samples, judged without the model.", show_default=False)
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", help="Another run's --samples: paired differences.", show_default=False),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print each task's first prompt and its ids to stderr.")] = False,
    chat: Annotated[
        bool, typer.Option("--chat/--raw", help="Exact-match prompts as a dialog, or as they are.")
    ] = False,
    attention: Annotated[
        bool,
        typer.Option("--attention", help="How much attention goes to the instruction, too (constraints; Figure 10)."),
    ] = False,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", min=0.0, help="0 is greedy.", show_default="the protocol's; 1 for one's own"),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option("--max-new-tokens", min=1, help="Longest answer, in tokens.", show_default="the protocol's; 256"),
    ] = None,
    batch_size: BatchSize = 32,
    endpoint: Endpoint = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
) -> None:
    """Measure a model: one result record a metric, each with its standard error.

    Benchmarks are known by name, and read from the files they were published in, or from exports of their parquet:
    mmlu, bbh, agieval, gsm8k, math, humaneval, mbpp, piqa, siqa, hellaswag, winogrande, arc_easy, arc_challenge,
    openbookqa, commonsense_qa, nq, triviaqa, squad, quac, boolq, truthfulqa, truthfulqa_mc1, truthfulqa_mc2, toxigen,
    bold; asdiv, svamp, mawps with a calculator (Table 15). Of any other name the fields of the file decide:

    text: bits per byte. question, choices, answer: accuracy by log-likelihood per character (Llama 1). prompt, target:
    exact match of greedy answers. prompt, chosen, rejected: a reward model's accuracy, by rating, safety
    and source too, calibration, unsafe recall, and what predicts as well. prompt alone: mean reward of
    sampled answers by each --rm, and the win rate over --baseline. messages, constraint: share of turns that obey the
    instruction of the first turn (Table 30). problem, number: word problems with a calculator. prompt, answer, date:
    facts told after their date, and kept back before it (Figure 22).

    Example: l2 evaluate --model runs/base --task mmlu=data/mmlu hellaswag=hellaswag_val.jsonl --append results.jsonl
    """
    from pathlib import Path

    from l2.eval.benchmarks.suite import Asking
    from l2.eval.stored import stored_items
    from l2.eval.tasks import group_records, result_records
    from l2.files.jsonl import append_records, check_outputs, write_records

    console = Console("evaluate", quiet)
    asked = [path for spec in task or () if Path(path := spec.partition("=")[2]).is_file()]
    check_outputs(
        [*asked, *filter(None, (against, rescore))], {"--output": output, "--samples": samples, "--append": append}
    )
    other = stored_items(against) if against is not None else {}
    if rescore is not None:
        if model or task or endpoint or rm or baseline or (shots, temperature, max_new_tokens) != (None, None, None):
            raise UsageError("--rescore judges stored items: leave out --model, --task, and how they would be asked")
        runs = _stored(rescore)
    elif model is None or not task:
        raise UsageError("give --model and --task, or --rescore")
    else:
        asking = Asking(protocol, shots, temperature, max_new_tokens, answers)
        opened = model, endpoint, rm, baseline, device, dtype
        settings = {"seed": seed, "batch_size": batch_size, "chat": chat, "toxicity": toxicity, "show": show}
        settings |= {"unsafe": unsafe_code, "attention": attention}
        runs = _asked(console, task, asking, opened, settings)
    done: list[_Run] = []
    results: list[dict[str, Any]] = []
    for run in runs:
        _tell(console, run)
        done.append(run)
        results += result_records(run.task, run.metrics, run.settings, run.items)
    results += group_records(results)
    if samples is not None:
        write_records(samples, ({"task": run.task, **run.settings, **item} for run in done for item in run.items))
    if against is not None:  # behind the samples: a run that can't be compared was not for nothing
        results += [record for run in done for record in _differences(console, run, other.get(run.task, ()))]
    write_records(output, results)
    if append is not None:
        append_records(append, results)


def _stored(path: str) -> Iterator[_Run]:
    """Stored items, judged again."""
    from l2.eval.stored import rescored, settings_in

    for name, items, metrics in rescored(path):
        yield _Run(name, items, metrics, settings_in(items[0]))


def _asked(
    console: Console, named: Sequence[str], asking: Asking, opened: tuple[Any, ...], given: dict[str, Any]
) -> Iterator[_Run]:
    """Each task in turn, by the model; `opened` as of `_open`."""
    from l2.eval.sandbox import executor
    from l2.eval.subject import Subject
    from l2.eval.tasks import check, read_task, run_task, settings_of
    from l2.generate.engine import Sampling
    from l2.model.checkpoint import model_sha256
    from l2.text.toxicity import OWN_WORDS, load_toxicity

    tasks = [read_task(name, path, asking) for name, path in named_files(named).items()]
    coded, toxic = (
        any(each.suite and getattr(each.suite.rule, need) for each in tasks) for need in ("program", "toxic")
    )
    execute = executor(unsafe=given["unsafe"]) if coded else None
    name, tested, tokenizer, rewards, beaten = _open(*opened)

    def show_ids(ids: Sequence[int]) -> None:
        if given["show"]:
            console.say(f"{tokenizer.decode(ids)!r} is {list(ids)}")

    temperature = 1.0 if asking.temperature is None else asking.temperature
    sampling = Sampling(temperature, 1.0, asking.tokens or LONGEST, given["seed"])
    judged_by = given["toxicity"] or OWN_WORDS.name
    toxicity = load_toxicity(given["toxicity"] or str(OWN_WORDS)) if toxic else None
    subject = Subject(name, tested, tokenizer, sampling, given["batch_size"], given["chat"], rewards, beaten, show_ids,
                      execute, toxicity, judged_by, given["attention"])  # fmt: skip
    check(subject, tasks)
    model, endpoint, *_ = opened
    sha256 = None if endpoint else model_sha256(model)
    for each in tasks:
        with console.progress(each.name) as progress:
            items, metrics = run_task(subject, each, progress)
        _tell_unasked(console, each, len(items))
        yield _Run(each.name, items, metrics, settings_of(subject, each, sha256))


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


def _shown(metrics: Mapping[str, Estimate]) -> str:
    """Metrics in one line; those of groups are left to the records."""
    whole = {name: e for name, e in metrics.items() if "/" not in name or len(metrics) <= MANY}
    return ", ".join(
        f"{name} {e.value:.4f}" + ("" if e.stderr is None else f" ± {e.stderr:.4f}") for name, e in whole.items()
    )


def _tell(console: Console, run: _Run) -> None:
    """One line of metrics or, of preferences, a table; and what else a reader must know of the items."""
    from l2.eval.pairs import suspicions
    from l2.eval.tables import metric_table

    if run.items and run.items[0].get("kind") == "preferences":
        console.say(f"{run.task}:\n{metric_table(run.metrics)}")
        for sentence in suspicions(run.items):
            console.say(f"warning: {run.task}: {sentence}; too little to tell them apart")
        return
    console.say(f"{run.task}: {_shown(run.metrics)}")
    cut = [item["cut"] for item in run.items if item.get("cut")]
    if cut:
        console.say(
            f"{run.task}: {len(cut)} of {len(run.items)} prompts were too long for the model's context and lost up to "
            f"{max(cut)} tokens at their beginning"
        )


def _tell_unasked(console: Console, task: Task, asked: int) -> None:
    """Records that became no item, and why."""
    from l2.eval.pairs import left_out
    from l2.eval.sampled import turns_to_judge

    if task.kind == "preferences" and (left := left_out(task.records)):
        console.say(f"{task.name}: {left:,} pairs left out, of which the rejected answer alone is safe")
    if task.kind == "instructions" and (unasked := turns_to_judge(task.records) - asked):
        console.say(f"{task.name}: {unasked} turns were not asked, since their dialogs outgrew the model's context")


def _differences(console: Console, run: _Run, other: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Result records of the paired differences to the other run's items."""
    from l2.eval.stored import differences
    from l2.eval.tasks import result_records

    if not other:
        console.say(f"{run.task}: --against has nothing of it to compare with")
        return []
    found = differences([{"task": run.task, **run.settings, **item} for item in run.items], other)
    said = _shown(found) or "its items have no scores to be compared one by one"
    console.say(f"{run.task}, less {other[0]['model']}: {said}")
    return [record | {"baseline": other[0]["model"]} for record in result_records(run.task, found, run.settings)]
