"""MMLU, AGIEval and BIG-bench Hard (paper §2.3, Table 24): many subjects, a metric for each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from l2.eval.benchmarks.files import records_in
from l2.eval.benchmarks.question import Ask, Item, Question, Scores, Shots, Source, nested, number_of, place_of, texts
from l2.eval.benchmarks.shots import first_of
from l2.files.errors import BadInput, L2Error
from l2.files.jsonl import Record

# Hendrycks et al. 2021 sort the 57 subjects so (their categories.py); all that is not named here is "other".
MMLU_SUBJECTS = {
    "humanities": "formal_logic high_school_european_history high_school_us_history high_school_world_history "
    "international_law jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory "
    "professional_law world_religions",
    "social_sciences": "econometrics high_school_geography high_school_government_and_politics "
    "high_school_macroeconomics high_school_microeconomics high_school_psychology human_sexuality "
    "professional_psychology public_relations security_studies sociology us_foreign_policy",
    "stem": "abstract_algebra anatomy astronomy college_biology college_chemistry college_computer_science "
    "college_mathematics college_physics computer_security conceptual_physics electrical_engineering "
    "elementary_mathematics high_school_biology high_school_chemistry high_school_computer_science "
    "high_school_mathematics high_school_physics high_school_statistics machine_learning",
}
MMLU_AREAS = {subject: area for area, subjects in MMLU_SUBJECTS.items() for subject in subjects.split()}
MMLU_COLUMNS = ("question", "A", "B", "C", "D", "answer")
MMLU_HEAD = "The following are multiple choice questions (with answers) about {group}.\n\n"

_OF_DEV = first_of("dev", of_group=True)
AGIEVAL = ("aqua-rat", "logiqa-en", "lsat-ar", "lsat-lr", "lsat-rc", "sat-en", "sat-en-without-passage", "sat-math")


def mmlu(record: Record) -> Question:
    """Four choices by letter; the subject is a field or the file's name."""
    if "A" in record:
        choices = [record.need(letter) for letter in "ABCD"]
        right = place_of(record, "answer", record.need("answer"), "ABCD")
    else:
        choices = texts(record, "choices")
        if len(choices) != 4:
            raise BadInput(record.where, f"{len(choices)} choices", "4")
        right = number_of(record, "answer", 4)
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCD", choices, strict=True))
    groups = MMLU_AREAS.get(record["subject"], "other"), record["subject"]
    context = f"{record.need('question').strip()}\n{listed}\nAnswer:"
    return Question(record, context, tuple("ABCD"), (right,), groups=groups)


def agieval(record: Record) -> Question:
    """Passage, question and options as one, and the letter (Zhong et al. 2023)."""
    options = texts(record, "options")
    letters = tuple("ABCDEFGH"[: len(options)])
    right = place_of(record, "label", record.need("label"), letters)
    passage = record.get("passage") or ""
    asked = f"{passage}Q: {record.need('question')} Answer Choices: {' '.join(options)}"
    context = f"{asked}\nA: Among A through {letters[-1]}, the answer is"
    return Question(record, context, letters, (right,), groups=(record["exam"],), cluster=passage)


def agieval_examples(source: Source, ask: Ask, group: str) -> Shots:
    """Those of few_shot_prompts.csv, as published: a column an exam, a question as a Python literal every second row,
    reasons (left out) below it; or the first of a dev file, where that one isn't there.
    """
    file = file_near(source, "few_shot_prompts.csv")
    if file is None:
        return _OF_DEV(source, ask, group)
    bare = group.endswith("-without-passage")
    examples = []
    for row in islice(records_in(file), None, None, 2):
        if cell := row.need(group.removesuffix("-without-passage")).strip():
            shown = nested(Record({"cell": cell}, f"{row.where}: {group}"), "cell")
            fields = {**shown, "exam": group, "passage": None if bare else shown.get("passage")}
            examples.append(ask(Record(fields, row.where)).as_example())
    return Shots("", tuple(examples))


def agieval_ready(record: Record) -> Question:
    """lm-evaluation-harness: the prompt is a field of its export, and several options may be right."""
    options, gold = texts(record, "choices"), record.need("gold", (list, int))
    right = tuple(gold) if isinstance(gold, list) else (gold,)
    if not right or not all(isinstance(i, int) and 0 <= i < len(options) for i in right):
        raise BadInput(record.where, f"gold {gold!r:.40}", f"numbers from 0 to {len(options) - 1}")
    return Question(record, record.need("query"), tuple(options), right, groups=(record["exam"],))


def file_near(source: Source, name: str) -> Path | None:
    """The file of that name beside the questions or up to two directories above; None where there is none."""
    root = Path(source.path)
    places = [folder / name for folder in (root, root.parent, root.parent.parent)]
    return next((place for place in places if place.is_file()), None)


def examples_of(record: Record) -> Iterator[Record]:
    """The questions of BIG-bench Hard's own files, {"examples": [...]}; a record of an export is one."""
    if "examples" not in record:
        yield record
        return
    for i in range(len(record.need("examples", list))):
        yield nested(record, "examples", i)


def bbh(record: Record) -> Question:
    """A question and the exact answer, without reasons."""
    context = f"Q: {record.need('input')}\nA:"
    return Question(record, context, targets=(record.need("target"),), groups=(record["task"],))


def bbh_examples(source: Source, ask: object, group: str) -> Shots:
    """Headline and examples of cot-prompts/TASK.txt beside the questions, with the final answers alone."""
    file = file_near(source, f"cot-prompts/{group}.txt")
    if file is None:
        raise L2Error(f"{source.path}: no cot-prompts/{group}.txt beside it to take examples from; --shots 0")
    _, _, body = file.read_text().rpartition("-----\n")
    head, *blocks = re.split(r"(?:^|\n\n)Q: ", body.strip())
    examples = []
    for number, block in enumerate(blocks, 1):
        question, _, reasons = block.partition("\nA:")
        answer = re.search(r"answer is (.*?)\.?\s*$", reasons, re.S)
        if answer is None:
            raise BadInput(f"{file}: example {number}", f"{reasons[-40:]!r}", "reasons that end with: the answer is X.")
        examples.append(f"Q: {question}\nA: {answer[1]}")
    return Shots(head.strip() + "\n\n", tuple(examples))


def exact_text(responses: Sequence[str], item: Item) -> Scores:
    """Whether the answer is the target to the letter, but for spaces around it."""
    return {"exact_match": sum(text.strip() == item["targets"][0].strip() for text in responses) / len(responses)}
