"""Arithmetic against fractions, what is no arithmetic, and answers that stop for the calculator."""

from __future__ import annotations

import warnings
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2.generate import calculator
from l2.generate.calculator import answer_with_calculator, calculate
from l2.generate.engine import Completion, Sampling
from l2.tokens.tokenizer import Tokenizer
from tests.conftest import small_config


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("48/2", "24"),
        ("2 + 3 * 4", "14"),
        ("(2 + 3) × 4", "20"),
        ("1,000 * 3", "3000"),
        ("0.1 + 0.2", "0.3"),
        ("1/3", "0.3333333333"),
        ("20% * 50", "10"),
        ("15 % 4", "3"),
        ("$12.50 x 4", "50"),
        ("7 // 2", "3"),
        ("-3 - -5", "2"),
        ("2^10", "1024"),
        ("2 ** -1", "0.5"),
        ("16 ** 0.5", "4"),
        ("10 − 4 ÷ 2", "8"),
        (" 5 ", "5"),
    ],
)
def test_arithmetic(expression, value):
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        *("", "two + 2", "1/0", "0 ** -1", "(1", "1 +", "1 2", "True + 1", "1j * 1j", "'a' * 3", "[1][0]", "1 < 2"),
        *("x", "__import__('os').system('true')", "(lambda: 1)()", "f(1)", "print", "1 if 1 else 2", "1; 2", "a := 1"),
        *("9**9**9", "9" * 150 + " * 9", "2 ** 100000", "(-8) ** 0.5", "1e400", "0.5 ** 500", "(10**25) * (10**25)"),
        *("(" * 99 + "1" + ")" * 99 + "+" + "1" * 50, "1" + "+1" * 200, "\0", "1\n+1\n", "1_0 and 2"),
    ],
)
def test_what_has_no_value(expression):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert calculate(expression) is None


def trees(depth: int) -> st.SearchStrategy[tuple[str, Fraction]]:
    """Expressions and their values."""
    leaf = st.integers(0, 999).map(lambda n: (str(n), Fraction(n)))
    if not depth:
        return leaf
    return leaf | st.tuples(trees(depth - 1), st.sampled_from("+-*/"), trees(depth - 1)).filter(
        lambda tree: tree[1] != "/" or tree[2][1] != 0
    ).map(
        lambda tree: (
            f"({tree[0][0]} {tree[1]} {tree[2][0]})",
            {"+": Fraction.__add__, "-": Fraction.__sub__, "*": Fraction.__mul__, "/": Fraction.__truediv__}[tree[1]](
                tree[0][1], tree[2][1]
            ),
        )
    )


@given(trees(3))
def test_any_expression_of_the_four_operations(tree):
    expression, value = tree
    found = calculate(expression)
    assert found is not None
    assert float(found) == pytest.approx(float(value), rel=1e-9)
    assert value.denominator > 1 or found == str(value)


class Scripted:
    """A server that writes what `says` gives for the text so far."""

    def __init__(self, tokenizer: Tokenizer, says: dict[str, str], context: int = 256) -> None:
        self.tokenizer, self.says, self.asked = tokenizer, says, []
        self.config = small_config(tokenizer.vocab_size, max_seq_len=context)

    def answer(self, prompts, keys, limits, sampling, k, at_once, hear):
        self.asked.append(list(keys))
        before = len(self.tokenizer.encode("="))
        for i, prompt in enumerate(prompts):
            text = self.tokenizer.decode(prompt)
            said = next(after for end, after in self.says.items() if text.endswith(end))
            ids = [*self.tokenizer.encode("=" + said)[before:], self.tokenizer.eos_id][: limits[i]]
            hear(i, 0, Completion(ids, [0.0] * len(ids), "stop" if ids[-1] == self.tokenizer.eos_id else "length"))


def asked(tokenizer: Tokenizer, *texts: str) -> list[list[int]]:
    return [[tokenizer.bos_id, *tokenizer.encode(text)] for text in texts]


def test_the_calculator_writes_what_it_is_called_for(tokenizer):
    server = Scripted(
        tokenizer,
        {
            "one?": " then <<6*7=41 and more",  # cut behind the sign, and what was written after it is gone
            "<<6*7=42>>": " so <<42/5=",
            "<<42/5=8.4>>": " it is 8.4",
            "two?": " no sums",
            "three?": " <<apples=",
            "<<apples=": "9>> of them",
        },
    )
    found = answer_with_calculator(
        server, tokenizer, asked(tokenizer, "one?", "two?", "three?"), ["a", "b", "c"], Sampling(max_new_tokens=99)
    )
    assert found == [
        ("then <<6*7=42>> so <<42/5=8.4>> it is 8.4", 2),
        ("no sums", 0),
        ("<<apples=9>> of them", 1),
    ]
    assert [len(keys) for keys in server.asked] == [3, 2, 1]
    assert len({key for keys in server.asked for key in keys}) == 6, "no two draws are the same"


def test_answers_end_in_time(tokenizer, monkeypatch):
    monkeypatch.setattr(calculator, "CALLS", 3)
    server = Scripted(tokenizer, {"go": "<<1+1=", "<<1+1=2>>": "<<1+1=", "<<1+1=": "x"})
    (found,) = answer_with_calculator(server, tokenizer, asked(tokenizer, "go"), ["a"], Sampling(max_new_tokens=200))
    assert found == ("<<1+1=2>>" * 3 + "<<1+1=", 3)
    (found,) = answer_with_calculator(server, tokenizer, asked(tokenizer, "go"), ["a"], Sampling(max_new_tokens=8))
    assert found == ("<<1+1=2>", 1)
    small = Scripted(tokenizer, server.says, context=14)
    (found,) = answer_with_calculator(small, tokenizer, asked(tokenizer, "go"), ["a"], Sampling(max_new_tokens=200))
    assert found[1] >= 1
