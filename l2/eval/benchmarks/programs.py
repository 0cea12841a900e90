"""HumanEval and MBPP (paper Table 21): programs that pass their tests or not. They are run elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from l2.eval.benchmarks.question import Item, Question, Scores, texts
from l2.eval.metrics import pass_at_k
from l2.files.errors import BadInput
from l2.files.jsonl import Record

AT = (1, 10, 80, 100)  # Table 21 has 1, 80 and 100


def humaneval(record: Record) -> Question:
    """A function to go on with."""
    tests = f"{record.need('test')}\ncheck({record.need('entry_point')})\n"
    solution = record.get("canonical_solution", "")
    return Question(record, record.need("prompt"), targets=(solution,), reference={"tests": tests})


def humaneval_program(response: str, item: Item) -> str:
    """The function and its tests."""
    return f"{item['prompt']}{response}\n\n{item['reference']['tests']}"


def mbpp(record: Record) -> Question:
    """A task in words with its tests (Austin et al. 2021)."""
    tests = texts(record, "test_list")
    if not tests:
        raise BadInput(record.where, "no tests", "test_list with tests")
    task = record.get("text") or record.need("prompt")  # the sanitized set calls it so
    asked = f"You are an expert Python programmer, and here is your task: {task} Your code should pass these tests:"
    setup = record.get("test_setup_code") or "\n".join(record.get("test_imports") or [])
    reference = {"tests": "\n".join([setup, *tests, *(record.get("challenge_test_list") or [])]) + "\n"}
    context = f"{asked}\n\n{chr(10).join(tests[:3])}\n[BEGIN]\n"
    return Question(record, context, targets=(record.need("code"),), reference=reference,
                    example=f"{record.need('code')}\n[DONE]")  # fmt: skip


def mbpp_program(response: str, item: Item) -> str:
    """What was written, and its tests."""
    return f"{response}\n\n{item['reference']['tests']}"


def passed_scores(responses: Sequence[str], item: Item) -> Scores:
    """pass@k of all k up to the number of answers (Chen et al. 2021), from the verdicts in `passed`."""
    verdicts: list[bool] = item["passed"]
    return {f"pass@{k}": pass_at_k(len(verdicts), sum(verdicts), k) for k in AT if k <= len(verdicts)}
