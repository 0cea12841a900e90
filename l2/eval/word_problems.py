"""Word problems with a calculator at hand (paper §5.1, Table 15): ASDiv, SVAMP and MAWPS from their own files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import orjson

from l2.eval.metrics import Estimate, mean
from l2.eval.subject import Item, Subject, fit
from l2.files.errors import BadInput, L2Error
from l2.files.jsonl import Record, read_records
from l2.files.progress import OnProgress
from l2.generate.calculator import answer_with_calculator
from l2.tokens.chat import encode_prompt

NAMES = ("asdiv", "svamp", "mawps")  # a task of such a name is read by `read_problems`
HOW = (
    "Solve the problem step by step. Write each calculation as <<expression=, such as <<12*3=, and a calculator fills "
    "in the result and >>. End with: The answer is N."
)  # ours: the paper shows no prompt
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")
CLOSE = 1e-4  # relative: results are given rounded, as 0.33 or 0.3333


def read_problems(path: str) -> Iterator[Record]:
    """{id, problem, number} of each problem: ASDiv.xml, SVAMP.json, MAWPS as JSON or JSONL, or such fields in JSONL.

    ASDiv's problems whose answer is not one number are left out, as Toolformer has it (Schick et al. 2023). Raises
    L2Error for a missing file, BadInput for one of another form.
    """
    if not Path(path).is_file():
        raise L2Error(f"{path}: no such file")
    with open(path, "rb") as f:
        start = f.read(200).lstrip(b"\xef\xbb\xbf \n\r\t")
    if start.startswith(b"<"):
        yield from _asdiv(path)
        return
    for number, fields in enumerate(_json(path) if start.startswith(b"[") else read_records([path]), 1):
        where = getattr(fields, "where", f"{path}[{number}]")
        record = Record(fields, where)
        problem, answer = _stated(record)
        value = as_number(str(answer[0] if isinstance(answer, list) and len(answer) == 1 else answer))
        if value is None:
            raise BadInput(where, f"answer {answer!r:.60}", "a number")
        yield Record(
            {"id": str(_first(record, "ID", "id", "iIndex") or number), "problem": problem, "number": value}, where
        )


def _json(path: str) -> list[dict[str, Any]]:
    try:
        rows = orjson.loads(Path(path).read_bytes())
    except orjson.JSONDecodeError as error:
        raise BadInput(path, f"no valid JSON ({error})", "a JSON array of problems") from None
    if not all(isinstance(row, dict) for row in rows):
        raise BadInput(path, "an array of other things", "a JSON array of objects")
    return list(rows)


def _first(record: Mapping[str, Any], *fields: str) -> Any:
    return next((record[field] for field in fields if record.get(field) is not None), None)


def _stated(record: Record) -> tuple[str, Any]:
    """A problem and its answer, by the names that SVAMP and the forms of MAWPS have for them."""
    question = _first(record, "sQuestion", "Question", "question", "problem", "original_text")
    answer = _first(record, "lSolutions", "Answer", "answer", "number", "ans")
    if not isinstance(question, str) or answer is None:
        expected = "Body, Question, Answer (SVAMP); sQuestion, lSolutions or Question, Answer (MAWPS)"
        raise BadInput(record.where, f"fields {', '.join(sorted(record))}", expected)
    if isinstance(record.get("Body"), str):  # SVAMP: the question may stand behind a comma
        question = f"{record['Body'].rstrip()} {question}"
    numbers = record.get("Numbers")
    if isinstance(numbers, str):  # MAWPS in SVAMP's repository: "N_00 apples", "3 4"
        for number, text in enumerate(numbers.split()):
            value = as_number(text)
            if value is None:
                raise BadInput(record.where, f"Numbers {numbers!r:.60}", "numbers with spaces between them")
            question = re.sub(rf"\bN_{number:02d}\b", f"{value:g}", question)
    return question.strip(), answer


def _asdiv(path: str) -> Iterator[Record]:
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise BadInput(path, f"no valid XML ({error})", "ASDiv.xml") from None
    problems = list(root.iter("Problem"))
    if not problems:
        raise BadInput(path, f"XML of {root.tag!r:.40}", "ASDiv.xml, with its Problem elements")
    for number, problem in enumerate(problems, 1):
        body, question, answer = (problem.findtext(tag) or "" for tag in ("Body", "Question", "Answer"))
        value = as_number(re.sub(r"\(.*?\)", "", answer))
        if value is not None:
            name, where = problem.get("ID", str(number)), f"{path}[{number}]"
            yield Record({"id": name, "problem": f"{body.strip()} {question.strip()}", "number": value}, where)


def as_number(text: str) -> float | None:
    """The number that a text is, or None."""
    text = text.strip()
    return float(text.replace(",", "")) if NUMBER.fullmatch(text) else None


def last_number(answer: str) -> float | None:
    """The number after the last "answer is", or else the last of all (ours); what the paper takes is not known."""
    _, said, tail = answer.lower().rpartition("answer is")
    found = NUMBER.findall(tail) if said else []
    numbers = found[:1] or NUMBER.findall(answer)
    return float(numbers[-1].replace(",", "")) if numbers else None


def solve(subject: Subject, records: Sequence[Record], on_progress: OnProgress) -> list[Item]:
    """A greedy answer to each problem, written with the calculator, and whether its number is right."""
    rows = [_asked(subject, record.need("problem")) for record in records]
    for record, row in zip(records, rows, strict=True):
        fit(record, len(row) + 1, subject.policy.config.max_seq_len)
    subject.show(rows[0])
    names, greedy = [record.identity for record in records], replace(subject.sampling, temperature=0.0)
    settings: dict[str, Any] = {"batch_size": subject.batch_size, "on_progress": on_progress}
    answers = answer_with_calculator(subject.policy, subject.tokenizer, rows, names, greedy, **settings)
    items = []
    for record, (response, calls) in zip(records, answers, strict=True):
        number, found = float(record.need("number", (int, float))), last_number(response)
        right = found is not None and abs(found - number) <= CLOSE * max(1.0, abs(number))
        item = {"id": record.identity, "prompt": record["problem"], "response": response, "target": number}
        items.append(item | {"calls": calls, "correct": right})
    return items


def _asked(subject: Subject, problem: str) -> list[int]:
    """The ids of a problem: as a dialog, or as plain text."""
    if subject.chat:
        messages = [{"role": "system", "content": HOW}, {"role": "user", "content": problem}]
        return encode_prompt(subject.tokenizer, messages)
    return [subject.tokenizer.bos_id, *subject.tokenizer.encode(f"{HOW}\n\nQ: {problem}\nA:")]


def measure_solved(items: Sequence[Item]) -> dict[str, Estimate]:
    """Share of problems with the right number, and calls of the calculator a problem."""
    return {"solved": mean([item["correct"] for item in items]), "calls": mean([item["calls"] for item in items])}
