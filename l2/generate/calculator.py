"""Answers with a calculator at hand (paper §5.1, Table 15): the model writes <<48/2=, and 24>> is written for it.

The notation is that of GSM8K (Cobbe et al. 2021), which models have met; the paper does not say which it used.
"""

from __future__ import annotations

import ast
import math
import operator
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from l2.files.progress import OnProgress, ignore
from l2.generate.engine import Sampler, Sampling, generate, prompt_key
from l2.tokens.tokenizer import Tokenizer

LONGEST = 200  # characters of an expression
LARGEST = 10**30  # of any number on the way
CALLS = 32  # of an answer; one that calls more often ends there
CALL = re.compile(r"<<([^<>=\n]*)=\s*$")
TAIL = 256  # tokens of an answer in which a call may lie

_SIGNS = {"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "^": "**", "$": "", "€": "", "£": ""}
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Mod: operator.mod,
}


def calculate(expression: str) -> str | None:
    """The value of an arithmetical expression, as people write it: exact, or to 10 digits; None where there is none.

    Numbers (1,000 and 20% too), + - * / // % ** and brackets; nothing else has a meaning, and no number grows beyond
    LARGEST on the way.
    """
    if len(expression) > LONGEST:
        return None
    for sign, plain in _SIGNS.items():
        expression = expression.replace(sign, plain)
    expression = re.sub(r"(?<=\d),(?=\d{3}\b)", "", expression)
    expression = re.sub(r"(\d)\s*%(?!\s*[\d(.])", r"\1/100", expression)
    expression = re.sub(r"(?<=[\d)])\s*x\s*(?=[\d(.])", "*", expression)
    try:
        with warnings.catch_warnings(action="ignore"):  # what Python thinks of the style of an expression
            value = _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None
    if value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.10g}"


def _value(node: ast.expr) -> Fraction:
    """The value of a part of an expression. Raises ValueError for what is no arithmetic, or too large."""
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool) and math.isfinite(number):
            value = Fraction(str(number))
        case ast.UnaryOp(op=ast.UAdd(), operand=inner):
            value = _value(inner)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            value = -_value(inner)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            value = _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            value = _OPERATORS[type(op)](_value(left), _value(right))
        case _:
            raise ValueError("no arithmetic")
    if abs(value) > LARGEST or value.denominator > LARGEST:
        raise ValueError("too large")
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    """`base` to the power of `exponent`. Raises ValueError for what would be too large, or is no real number."""
    if base and abs(exponent) * abs(math.log2(abs(base))) > 128:
        raise ValueError("too large")
    if exponent.denominator == 1:
        if abs(exponent) > 1000:
            raise ValueError("too large")
        return base**exponent.numerator
    if base < 0:
        raise ValueError("no real number")
    return Fraction(float(base) ** float(exponent))


@dataclass
class _Answer:
    """What is written after `prompt`, and how often the calculator was called for it."""

    name: str
    prompt: Sequence[int]
    ids: list[int] = field(default_factory=list)
    calls: int = 0
    ended: bool = False


def answer_with_calculator(
    model: Sampler,
    tokenizer: Tokenizer,
    rows: Sequence[Sequence[int]],
    names: Sequence[str],
    sampling: Sampling,
    *,
    batch_size: int = 64,
    on_progress: OnProgress = ignore,
) -> list[tuple[str, int]]:
    """The text of an answer to each row of ids, with what the calculator wrote in it; and how often it was called.

    `names` key what is drawn. What the calculator writes counts among max_new_tokens; an expression without a value is
    left for the model to go on from.
    """
    answers = [_Answer(name, row) for name, row in zip(names, rows, strict=True)]
    going, most, context = answers, sampling.max_new_tokens, model.config.max_seq_len
    while going:
        written = generate(
            model,
            [[*answer.prompt, *answer.ids] for answer in going],
            [prompt_key(f"{answer.name} {answer.calls}" if answer.calls else answer.name) for answer in going],
            replace(sampling, max_new_tokens=max(most - len(answer.ids) for answer in going)),
            eos_id=tokenizer.eos_id,
            batch_size=batch_size,
            ended=lambda ids: _called(tokenizer, ids) is not None,
        )
        for answer, (part,) in zip(going, written, strict=True):
            answer.ids += part.tokens
            expression = _called(tokenizer, answer.ids)
            answer.ended = expression is None or answer.calls == CALLS
            if expression is not None and not answer.ended:
                answer.calls += 1
                answer.ids += _result(tokenizer, expression)
            answer.ended |= len(answer.ids) >= most or len(answer.prompt) + len(answer.ids) >= context
        going = [answer for answer in going if not answer.ended]
        on_progress(len(rows) - len(going), len(rows), "")
    return [(tokenizer.decode(answer.ids[:most]).strip(), answer.calls) for answer in answers]


def _called(tokenizer: Tokenizer, ids: Sequence[int]) -> str | None:
    """The expression at the end of an answer that calls the calculator."""
    found = CALL.search(tokenizer.decode(ids[-TAIL:]))
    return found and found[1]


def _result(tokenizer: Tokenizer, expression: str) -> list[int]:
    """The ids that the calculator adds; none for an expression without a value."""
    value = calculate(expression)
    # a text alone would begin with a space
    return [] if value is None else tokenizer.encode(f"={value}>>")[len(tokenizer.encode("=")) :]
