"""Conditions on fields that documents have already: score first, decide later (ours).

A condition is read, never run: `scores.toxicity < 0.5` is a field, an operator and a JSON number or string.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import orjson

from l2.files.errors import UsageError

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
    "==": operator.eq,
    "!=": operator.ne,
}
GRAMMAR = re.compile(rf"\s*([\w-]+(?:\.[\w-]+)*)\s*({'|'.join(OPERATORS)})\s*(.*?)\s*", re.DOTALL)
ALLOWED = f"""FIELD OP VALUE, as scores.toxicity < 0.5 or source == "wiki", with OP one of {" ".join(OPERATORS)}"""
SHOWN = 80  # characters of a condition that is none


class Condition(NamedTuple):
    """`field`, a path with dots, stands in the relation `operator` to `value`; `text` is how it was written."""

    field: str
    operator: str
    value: float | str
    text: str

    def holds(self, found: Any) -> bool:
        """Whether it holds for `found`. No condition, not even !=, holds for null or for another kind of value."""
        kind = str if isinstance(self.value, str) else int | float
        if isinstance(found, bool) or not isinstance(found, kind):
            return False
        return OPERATORS[self.operator](found, self.value)


def parse_condition(text: str) -> Condition:
    """The condition that `text` writes. Raises UsageError for anything else, saying what is allowed."""
    match = GRAMMAR.fullmatch(text)
    if match is None:
        raise _refused(text, "is no condition")
    field, relation, written = match.groups()
    try:
        value = orjson.loads(written)
    except orjson.JSONDecodeError:
        value = None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _refused(text, f"has no number or double-quoted string after {relation}")
    return Condition(field, relation, value, text.strip())


def _refused(text: str, why: str) -> UsageError:
    shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    return UsageError(f"{shown!r} {why}; a condition is {ALLOWED}")


def parse_conditions(texts: Iterable[str]) -> list[Condition]:
    """`parse_condition` of each."""
    return [parse_condition(text) for text in texts]


def look_up(document: Mapping[str, Any], field: str) -> Any:
    """The value at a path with dots; None where any part of the path is missing or no object."""
    value: Any = document
    for name in field.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value
