"""The examples before a question: fixed ones that the field has agreed on, or the first of another split."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from l2.eval.benchmarks.commonsense import csqa_context
from l2.eval.benchmarks.files import beside
from l2.eval.benchmarks.question import Ask, Examples, Shots, Source
from l2.files.jsonl import Record

FILE = Path(__file__).with_name("examples.json")  # NOTICE says whose they are
Pair = dict[str, Any]


@functools.cache
def published() -> dict[str, list[Pair]]:
    """Examples by benchmark, each a question and its answer."""
    examples: dict[str, list[Pair]] = orjson.loads(FILE.read_bytes())
    return examples


def fixed(name: str, context: Callable[[Pair], str]) -> Examples:
    """The published examples of that name."""

    def examples(source: Source, ask: Ask, group: str) -> Shots:
        return Shots("", tuple(f"{context(pair)} {pair['answer']}" for pair in published()[name]))

    return examples


def question_and_answer(pair: Pair) -> str:
    """Q: and A:."""
    return f"Q: {pair['question']}\nA:"


def reasons(pair: Pair) -> str:
    """CommonsenseQA with its choices."""
    return csqa_context(pair["question"], pair["choices"])


MOST = 64  # examples that are ever asked for (NaturalQuestions and TriviaQA)


def first_of(split: str, *, of_group: bool = False) -> Examples:
    """The first questions of another split or, of_group, those of them that are of the same group."""

    @functools.cache
    def by_group(source: Source, ask: Ask) -> dict[str, tuple[str, ...]]:
        groups: dict[str, list[str]] = {}
        for question in map(ask, islice(source.read(beside(source.path, split), [split]), 64 * MOST)):
            group = question.groups[-1] if of_group else ""
            groups.setdefault(group, []).append(question.as_example())
        return {group: tuple(examples[:MOST]) for group, examples in groups.items()}

    def examples(source: Source, ask: Ask, group: str) -> Shots:
        return Shots("", by_group(source, ask).get(group if of_group else "", ()))

    return examples


def numbered(*numbers: int) -> Examples:
    """The questions of these task_ids in the same file (MBPP: 2, 3, 4)."""

    def examples(source: Source, ask: Ask, group: str) -> Shots:
        def chosen(records: Iterator[Record]) -> Iterator[Record]:
            return (record for record in records if str(record.get("task_id")) in map(str, numbers))

        return Shots("", tuple(ask(record).as_example() for record in chosen(source.read(source.path, []))))

    return examples
