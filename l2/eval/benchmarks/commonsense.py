"""PIQA, SIQA, HellaSwag, WinoGrande, ARC, OpenBookQA, CommonsenseQA (paper Table 22): a record to a question."""

from __future__ import annotations

import re
from collections.abc import Sequence

from l2.eval.benchmarks.question import Item, Question, Scores, nested, number_of, place_of, texts
from l2.eval.metrics import most_frequent
from l2.files.errors import BadInput
from l2.files.jsonl import Record


def piqa(record: Record) -> Question:
    """Which of two solutions reaches the goal."""
    options = record.need("sol1"), record.need("sol2")
    right = number_of(record, "label", 2)
    return Question(record, f"Question: {record.need('goal')}\nAnswer:", options, (right,))


def siqa(record: Record) -> Question:
    """One of three answers; labels count from 1."""
    options = tuple(record.need(f"answer{letter}") for letter in "ABC")
    context = f"Q: {record.need('context')} {record.need('question')}\nA:"
    return Question(record, context, options, (number_of(record, "label", 3, first=1),))


def without_markup(text: str) -> str:
    """HellaSwag's text without what WikiHow's headings left in it: [title], [step], [header], ..."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def hellaswag(record: Record) -> Question:
    """One of four endings of a scene."""
    scene = f"{record.need('activity_label')}: {record.need('ctx_a')} {record.need('ctx_b').capitalize()}"
    endings = tuple(without_markup(ending) for ending in texts(record, "endings"))
    return Question(record, without_markup(scene), endings, (number_of(record, "label", len(endings)),))


def winogrande(record: Record) -> Question:
    """What follows the gap, after each of two fillings of it."""
    sentence = record.need("sentence")
    before, gap, after = sentence.partition("_")
    if not gap:
        raise BadInput(record.where, f"sentence {sentence!r:.60}", "a gap _ in it")
    contexts = before + record.need("option1"), before + record.need("option2")
    options = after.strip(), after.strip()
    return Question(record, "", options, (number_of(record, "answer", 2, first=1),), contexts=contexts)


def stem_and_choices(record: Record, field: str = "question") -> tuple[str, list[str], int]:
    """The question, its choices and which is right, of AI2's files or their parquet: ARC, OpenBookQA, CommonsenseQA."""
    if isinstance(record.get("question"), dict):
        asked = nested(record, "question")
        listed = [nested(record, "question", "choices", i) for i in range(len(asked.need("choices", list)))]
        stem, choices = asked.need("stem"), [choice.need("text") for choice in listed]
        labels = [choice.need("label") for choice in listed]
    else:
        stem, inside = record.need(field), nested(record, "choices")
        choices, labels = texts(inside, "text"), texts(inside, "label")
        if len(choices) != len(labels):
            raise BadInput(inside.where, f"{len(choices)} texts, {len(labels)} labels", "as many")
    return stem, choices, place_of(record, "answerKey", record.need("answerKey"), labels)


def arc(record: Record) -> Question:
    """A question of 3 to 5 choices, labelled A, B, ... or 1, 2, ..."""
    stem, choices, right = stem_and_choices(record)
    return Question(record, f"Question: {stem}\nAnswer:", tuple(choices), (right,))


def openbookqa(record: Record) -> Question:
    """A sentence and four ways in which it may end."""
    stem, choices, right = stem_and_choices(record, "question_stem")
    return Question(record, stem, tuple(choices), (right,))


def up_to_five_choices(record: Record) -> tuple[str, list[str], int]:
    """The same of CommonsenseQA, which has five and calls them A to E."""
    stem, choices, right = stem_and_choices(record)
    if len(choices) > 5:
        raise BadInput(record.where, f"{len(choices)} choices", "5 at most")
    return stem, choices, right


def csqa_letters(record: Record) -> Question:
    """lm-evaluation-harness: the letter of five listed choices."""
    stem, choices, right = up_to_five_choices(record)
    letters = tuple("ABCDE"[: len(choices)])
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True))
    return Question(record, f"Question: {stem.strip()}\n{listed}\nAnswer:", letters, (right,))


def csqa_context(stem: str, choices: Sequence[str]) -> str:
    """The form of Wei et al. 2022 (table 24)."""
    listed = "".join(f"\n({letter}) {choice}" for letter, choice in zip("abcde", choices, strict=False))
    return f"Q: {stem}\nAnswer Choices:{listed}\nA:"


def csqa(record: Record) -> Question:
    """Reasons, and then a letter."""
    stem, choices, right = up_to_five_choices(record)
    return Question(record, csqa_context(stem, choices), targets=("abcde"[right],))


def letter_after_reasons(responses: Sequence[str], item: Item) -> Scores:
    """Whether "the answer is (x)" names the right letter; with several answers also whether the commonest does."""
    found = [re.search(r"answer is \(?([a-e])\b", response, re.I) for response in responses]
    letters = [match[1].lower() if match else "" for match in found]
    scores = {"accuracy": sum(letter in item["targets"] for letter in letters) / len(letters)}
    if len(letters) > 1:
        scores[f"maj@{len(letters)}"] = float(most_frequent(letters) in item["targets"])
    return scores
