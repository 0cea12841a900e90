"""The three files' forms, the number of an answer, and problems solved with the calculator."""

from __future__ import annotations

import json

import pytest

from l2.eval.subject import Subject
from l2.eval.tasks import check, read_task, run_task
from l2.eval.word_problems import last_number, read_problems
from l2.files.errors import BadInput
from l2.generate.engine import Sampling
from tests.generate.test_calculator import Scripted

ASDIV = """<?xml version="1.0" encoding="UTF-8"?>
<Machine-Reading-Corpus-File><ProblemSet>
<Problem ID="nluds-0001" Grade="1"><Body>Seven apples &amp; two pears.</Body><Question>How many?</Question>
<Answer>9 (fruits)</Answer><Formula>7+2=9</Formula></Problem>
<Problem ID="nluds-0002"><Body>A ratio.</Body><Question>Which?</Question><Answer>3:4</Answer></Problem>
<Problem ID="nluds-0003"><Body>Two.</Body><Question>Both?</Question><Answer>3 (a); 4 (b)</Answer></Problem>
<Problem ID="nluds-0004"><Body>Big.</Body><Question>How big?</Question><Answer>1,250 (km)</Answer></Problem>
</ProblemSet></Machine-Reading-Corpus-File>"""
SVAMP = [{"ID": "chal-1", "Body": "Each pack costs 76 dollars", "Question": "If 25 is off , how much?",
          "Equation": "( 76.0 - 25.0 )", "Answer": 51.0, "Type": "Subtraction"}]  # fmt: skip
MAWPS = [{"iIndex": 2, "sQuestion": "Joan found 70 shells.", "lEquations": ["X=70-43"], "lSolutions": [27.0]}]
MASKED = {"Question": "Mary had N_00 apples and N_01 pears .", "Numbers": "3.0 4.5", "Answer": 7.5}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("ASDiv.xml", ASDIV, [("nluds-0001", "Seven apples & two pears. How many?", 9.0),
                              ("nluds-0004", "Big. How big?", 1250.0)]),
        ("SVAMP.json", json.dumps(SVAMP), [("chal-1", "Each pack costs 76 dollars If 25 is off , how much?", 51.0)]),
        ("MAWPS.json", json.dumps(MAWPS), [("2", "Joan found 70 shells.", 27.0)]),
        ("m.jsonl", json.dumps(MASKED), [("1", "Mary had 3 apples and 4.5 pears .", 7.5)]),
        ("bom.jsonl", "\ufeff[" + json.dumps(MASKED) + "]", None),
    ],
)  # fmt: skip
def test_each_file_in_its_own_form(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    if expected is None:
        with pytest.raises(BadInput, match="no valid JSON"):
            list(read_problems(str(tmp_path / name)))
        return
    found = list(read_problems(str(tmp_path / name)))
    assert [(record["id"], record["problem"], record["number"]) for record in found] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<a><b/></a>", "with its Problem elements"),
        ("<a", "no valid XML"),
        ("[1]", "a JSON array of objects"),
        ('{"Question": "x"}', "lSolutions"),
        ('{"Question": "x", "Answer": "many"}', "a number"),
        ('[{"sQuestion": "x", "lSolutions": [1, 2]}]', "a number"),
    ],
)
def test_other_files_are_named(tmp_path, text, message):
    (tmp_path / "x").write_text(text)
    with pytest.raises(BadInput, match=message):
        list(read_problems(str(tmp_path / "x")))


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("7 + 2 is <<7+2=9>> 9. The answer is 9.", 9.0),
        ("The answer is 1,250 km, not 3.", 1250.0),
        ("First 3, then -4.5", -4.5),
        ("None at all.", None),
        ("The answer is unknown, 7 maybe", 7.0),
        ("12. The answer is unclear", 12.0),
    ],
)
def test_the_number_of_an_answer(answer, number):
    assert last_number(answer) == number


def test_problems_are_solved_with_the_calculator(tmp_path, tokenizer):
    (tmp_path / "SVAMP.json").write_text(json.dumps([SVAMP[0], SVAMP[0] | {"ID": "chal-2", "Answer": 50.0}]))
    server = Scripted(tokenizer, {"\nA:": " <<76-25=", "<<76-25=51>>": " The answer is 51."}, context=2048)
    task = read_task("svamp", str(tmp_path / "SVAMP.json"))
    subject = Subject("m", server, tokenizer, Sampling(max_new_tokens=200))
    check(subject, [task])
    items, metrics = run_task(subject, task)
    assert [item["correct"] for item in items] == [True, False]
    assert metrics["solved"].value == 0.5
    assert metrics["calls"].value == 1.0
