"""A question as a model is asked it, and what a protocol says of asking: plain data."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from l2.files.errors import BadInput
from l2.files.jsonl import Record

Item = dict[str, Any]  # what came of a question; enough to judge it again
Scores = dict[str, float]  # by metric


@dataclass(frozen=True)
class Question:
    """What follows the examples, and what the answer is held against.

    context: what the model reads. options: the choices whose log-likelihood is compared, each after a space; an option
    may have a context of its own in `contexts` (WinoGrande). right: indices of right options. targets: right answers
    where the answer is written. example: what stands after the context where the question serves as an example.
    groups: subjects and the like, each with a metric of its own, the widest first. cluster: what questions of one
    passage share. reference: what else the judge needs.
    """

    record: Record
    context: str
    options: tuple[str, ...] = ()
    right: tuple[int, ...] = ()
    targets: tuple[str, ...] = ()
    example: str = ""
    groups: tuple[str, ...] = ()
    cluster: str = ""
    contexts: tuple[str, ...] = ()
    reference: Mapping[str, Any] = field(default_factory=dict)

    def contexts_of_options(self) -> Sequence[str]:
        """The context of each option."""
        return self.contexts or [self.context] * len(self.options)

    def as_example(self) -> str:
        """Context and right answer."""
        right = self.right[0] if self.right else 0
        context = self.contexts[right] if self.contexts else self.context
        return context + (self.example or " " + (self.options[right] if self.options else self.targets[0]))


Ask = Callable[[Record], Question]
Judge = Callable[[Sequence[str], Item], Scores]
Choose = Callable[[Item], Scores]
Program = Callable[[str, Item], str]  # what an answer is run as


class Source(NamedTuple):
    """Where a benchmark's questions were read from: its path, and how to read another of its splits there."""

    path: str
    read: Callable[[str, Sequence[str]], Iterator[Record]]


class Shots(NamedTuple):
    """What stands before the questions of a group: a headline and worked examples."""

    head: str
    examples: tuple[str, ...]


Examples = Callable[[Source, Ask, str], Shots]  # of the group of that name


@dataclass(frozen=True)
class Rule:
    """How one protocol asks one benchmark; all of it is data but the functions, each of which stands alone.

    choose: scores of the log-likelihoods of the options; judge: scores of written answers; one of the two. prior: the
    context of the log-likelihoods that `choose` divides by. stops: what ends a written answer, not part of it; it
    has at most `tokens` tokens, is greedy at temperature 0, and raw text. head and between: what stands before and
    between the examples. program: what is to be run of an answer before it is judged. toxic: it needs toxicity scores.
    """

    ask: Ask
    choose: Choose | None = None
    judge: Judge | None = None
    prior: str = ""
    stops: tuple[str, ...] = ("\n",)
    tokens: int = 32
    temperature: float = 0.0
    top_p: float = 1.0
    shots: int = 0
    examples: Examples | None = None
    head: str = ""
    between: str = "\n\n"
    program: Program | None = None
    toxic: bool = False
    version: int = 1


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: how its files are read, and its rule under each protocol that has one.

    splits: those that are asked, the first that is there. macro: the overall value is the mean over the widest groups,
    not over questions.
    """

    read: Callable[[str, Sequence[str]], Iterator[Record]]
    splits: tuple[str, ...]
    llama: Rule
    harness: Rule | None = None
    macro: bool = False


def nested(record: Record, *path: str | int) -> Record:
    """The object inside `record` at `path`, which remembers where it stands. Raises BadInput where there is none."""
    inside: Any = record
    where = record.where
    for key in path:
        there = (isinstance(inside, dict) and key in inside) or (isinstance(inside, list) and isinstance(key, int))
        if not there:
            raise BadInput(where, f"fields {sorted(inside) if isinstance(inside, dict) else inside!r:.80}",
                           f"a field {key!r}")  # fmt: skip
        inside, where = unpacked(inside[key]), where + (f"[{key}]" if isinstance(key, int) else f": {key}")
    if not isinstance(inside, dict):
        raise BadInput(where, f"{type(inside).__name__} {inside!r:.60}", "an object")
    return Record(inside, where)


def unpacked(value: Any) -> Any:
    """A list or an object that an export wrote into a cell of a CSV, or the value itself."""
    if isinstance(value, str) and value[:1] + value[-1:] in ("[]", "{}"):
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return value
    return value


def texts(record: Record, name: str) -> list[str]:
    """A field that is a list of texts. Raises BadInput for anything else."""
    values = unpacked(record.need(name, (list, str)))
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise BadInput(record.where, f"{name} {values!r:.60}", "a list of texts")
    found: list[str] = values
    return found


def number_of(record: Record, name: str, count: int, first: int = 0) -> int:
    """A label, as a number or its digits, counted from `first`, as an index from 0 to count - 1."""
    value = record.need(name, (int, str))
    digits = str(int(value)) if isinstance(value, bool) else str(value).strip()
    if not digits.isdecimal() or not 0 <= int(digits) - first < count:
        raise BadInput(record.where, f"{name} {value!r:.40}", f"a number from {first} to {first + count - 1}")
    return int(digits) - first


def place_of(record: Record, name: str, value: str, labels: Sequence[str]) -> int:
    """Which of `labels` a field names."""
    if value.strip() not in labels:
        raise BadInput(record.where, f"{name} {value!r:.40}", f"one of {', '.join(labels)}")
    return labels.index(value.strip())
