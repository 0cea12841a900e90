"""GSM8K and MATH (paper Table 25): worked solutions, and whether what they end with is right."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import current_thread, main_thread
from typing import Any

from l2.eval.benchmarks.question import Item, Question, Scores
from l2.eval.metrics import most_frequent
from l2.files.errors import BadInput, L2Error
from l2.files.jsonl import Record

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
SECONDS = 5  # for sympy to compare two answers (Lewkowycz et al. 2022)


def voted(answers: Sequence[str], right: Callable[[str], bool]) -> Scores:
    """Share of right answers and, of several, whether the commonest is right (LLaMA-1 §3.4: maj1@k)."""
    scores = {"exact_match": sum(map(right, answers)) / len(answers)}
    if len(answers) > 1:
        scores[f"maj@{len(answers)}"] = float(right(most_frequent(answers)))
    return scores


def gsm8k_of(record: Record, context: str) -> Question:
    """The number after #### is right; the worked answer is the example."""
    answer = record.need("answer")
    _, mark, number = answer.rpartition("####")
    if not mark:
        raise BadInput(record.where, f"answer {answer[-40:]!r}", "one that ends with #### and a number")
    return Question(record, context, targets=(number.strip(),), example=" " + answer)


def gsm8k(record: Record) -> Question:
    """The form of Wei et al. 2022."""
    return gsm8k_of(record, f"Q: {record.need('question')}\nA:")


def gsm8k_harness(record: Record) -> Question:
    """The form of lm-evaluation-harness."""
    return gsm8k_of(record, f"Question: {record.need('question')}\nAnswer:")


def last_number(text: str) -> str:
    """The last number after "The answer is", or of all the text where it does not say so; without commas."""
    found = NUMBER.findall(text.rpartition("The answer is")[2])
    return found[-1].replace(",", "") if found else ""


def same_number(a: str, b: str) -> bool:
    """Whether two numbers are equal as numbers; a text that is none equals nothing."""
    with suppress(ValueError):
        return float(a.replace(",", "")) == float(b.replace(",", ""))
    return False


def gsm8k_scores(responses: Sequence[str], item: Item) -> Scores:
    """The last number of each answer."""
    return voted([last_number(text) for text in responses], lambda answer: same_number(answer, item["targets"][0]))


def _plain(text: str) -> str:
    """What lm-evaluation-harness compares: without commas, dollars, what leads up to ####, and a last dot."""
    for pattern in (",", r"\$", r"(?s).*#### ", r"\.$"):
        text = re.sub(pattern, "", text)
    return text.lower()


def gsm8k_harness_scores(responses: Sequence[str], item: Item) -> Scores:
    """Both of its extractions: the number after ####, and the last thing that looks like one."""

    def strict(text: str) -> str:
        found = re.search(r"#### (-?[0-9.,]+)", text)
        return _plain(found[1].strip()) if found else "[invalid]"

    def flexible(text: str) -> str:
        found = [a or b for a, b in re.findall(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", text)]
        return _plain(found[-1].strip()) if found else "[invalid]"

    target = _plain(item["targets"][0])
    scores = voted([strict(text) for text in responses], lambda answer: answer == target)
    loose = voted([flexible(text) for text in responses], lambda answer: answer == target)
    return scores | {f"{name}_flexible": value for name, value in loose.items()}


def math_context(problem: str) -> str:
    """The form of Lewkowycz et al. 2022 (appendix D)."""
    return f"Problem:\n{problem}\n\nSolution:"


def math(record: Record) -> Question:
    """What stands in the last \\boxed{} of the solution is right."""
    solution = record.need("solution")
    boxed = last_boxed(solution)
    if boxed is None:
        raise BadInput(record.where, f"solution {solution[-40:]!r}", r"one with the answer in \boxed{}")
    groups = (str(record.get("type") or record["file"]).lower().replace(" ", "_"),)
    return Question(record, math_context(record.need("problem")), targets=(boxed,), groups=groups)


def last_boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{...}, \boxed x or \fbox{...}, braces counted; None without one."""
    marks = list(re.finditer(r"\\(?:boxed|fbox)\s*", text))
    if not marks:
        return None
    rest, depth = text[marks[-1].end() :], 0
    if not rest.startswith("{"):
        return rest.partition("$")[0].strip() or None
    for place, letter in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if not depth:
            return rest[1:place]
    return None


# Lewkowycz et al. 2022, appendix D: what is replaced in a final answer, and what is taken out.
REPLACED = [("an ", ""), ("a ", ""), (".$", "$"), ("\\$", ""), ("\\ ", ""), (" ", ""), ("mbox", "text"),
            (",\\text{and}", ","), ("\\text{and}", ","), ("\\text{m}", "\\text{}")]  # fmt: skip
UNITS = "square ways integers dollars mph inches ft hours km units sue points feet minutes digits cents degrees cm gm "
UNITS += "pounds meters meals edges students childrentickets multiples"
TAKEN = ["\\ldots", "\\text{s}", "\\text{.}", "\\text{\ns}", "\\text{}^2", "\\text{}^3", "\\text{\n}", "\\text{}",
         "\\mathrm{th}", "^\\circ", "^{\\circ}", "\\;", ",\\!", "{,}", '"', "\\dots"]  # fmt: skip


def final_form(answer: str) -> str:
    """A final answer in Minerva's normal form, which is LaTeX without units, text, spaces and dollars.

    Units go only where no letter and no backslash stands before them, so that \\left keeps its ft (ours).
    """
    answer = answer.split("=")[-1]
    units = "|".join(UNITS.split())
    answer = re.sub(rf"(?<![\\a-zA-Z])(?:{units})(?![a-zA-Z])", "", answer)
    for old, new in REPLACED:
        answer = answer.replace(old, new)
    answer = re.sub(rf"(?<![\\a-zA-Z])(?:{units})", "", answer)
    for old in TAKEN:
        answer = answer.replace(old, "")
    answer = re.sub(r".*?\$(.*?)\$.*", r"\1", answer, flags=re.S)
    for command in ("text", "textbf", "overline"):
        answer = re.sub(rf"\\{command}\{{(.*?)\}}", r"\1", answer)
    answer = re.sub(r"\\boxed\{(.*)\}", r"\1", answer)
    answer = re.sub(r"frac([^{])(.)", r"frac{\1}{\2}", answer)
    answer = re.sub(r"sqrt(\[[^\]]*\])?([^{\[])", lambda m: f"sqrt{m[1] or ''}{{{m[2]}}}", answer)
    answer = answer.replace("$", "")
    return answer.replace(",", "") if re.fullmatch(r"-?\d{1,3}(,\d{3})+", answer) else answer


def final_answer(text: str) -> str:
    """What stands after "Final Answer: The final answer is", in normal form."""
    found = re.search(r"Final Answer: The final answer is(.*?)\. I hope it is correct", text + ". I hope it is correct")
    return final_form(found[1].strip()) if found else ""


@contextmanager
def _within(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in the block when it takes too long; only the main thread can be told."""

    def late(*_: Any) -> None:
        raise TimeoutError

    if current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def same_expression(a: str, b: str) -> bool:
    """Whether two answers in normal form are equal, as texts or to sympy within SECONDS.

    Raises L2Error where sympy's reader of LaTeX is not installed.
    """
    if a == b or not a or not b:
        return bool(a) and a == b
    try:
        import antlr4  # noqa: F401  without it every answer would be unreadable
        import sympy
        from sympy.parsing.latex import parse_latex
    except ImportError:
        raise L2Error("MATH compares LaTeX by sympy, which needs antlr4: pip install 'l2[eval]'") from None
    try:
        with _within(SECONDS):
            return bool(sympy.simplify(parse_latex(a) - parse_latex(b)) == 0)
    except Exception:  # whatever a model writes, sympy may fail at it in any way: then it equals nothing
        return False


def math_scores(responses: Sequence[str], item: Item) -> Scores:
    """The final answer of each solution; the vote is over normal forms."""
    target = final_form(item["targets"][0])
    return voted([final_answer(text) for text in responses], lambda answer: same_expression(answer, target))
