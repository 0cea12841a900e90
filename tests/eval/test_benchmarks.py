"""The benchmarks' own files and exports of their parquet give the same questions; prompts as protocols.md has them."""

from __future__ import annotations

import csv
import json

import pytest

from l2.eval.benchmarks.suite import Asking, read_suite
from l2.eval.benchmarks.table import BENCHMARKS, benchmark_named
from l2.files.errors import BadInput, L2Error, UsageError


def put(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows))
    return path


def asked(name, path, shots=0, protocol="llama", **more):
    return read_suite(name, str(path), Asking(protocol, shots, **more))


def only(name, path, **more):
    (question,) = asked(name, path, **more).questions
    return question


STEM = {"stem": "Who?", "choices": [{"text": "x y", "label": "1"}, {"text": "z", "label": "2"}]}
PARQUET = {"text": ["x y", "z"], "label": ["1", "2"]}
SQUAD = {"version": "2", "data": [{"title": "A_B", "paragraphs": [{"context": "c d", "qas": [
    {"id": "1", "question": "Q?", "is_impossible": False, "answers": [{"text": "c"}]}]}]}]}  # fmt: skip
QAS = [{"question": "q1?", "orig_answer": {"text": "a1"}, "answers": [{"text": "a1"}, {"text": "a 2"}]},
       {"question": "q2?", "orig_answer": {"text": "CANNOTANSWER"}, "answers": [{"text": "CANNOTANSWER"}]}]  # fmt: skip
QUAC = {"data": [{"title": "T", "background": "B", "section_title": "S",
                  "paragraphs": [{"context": "p CANNOTANSWER", "qas": QAS}]}]}  # fmt: skip
QUAC_ROW = {"wikipedia_page_title": "T", "background": "B", "section_title": "S", "context": "p CANNOTANSWER",
            "questions": ["q1?", "q2?"], "answers": {"texts": [["a1", "a 2"], ["CANNOTANSWER"]]},
            "orig_answers": {"texts": ["a1", "CANNOTANSWER"]}}  # fmt: skip
ALIASES = {"Value": "St. Louis", "Aliases": ["Saint Louis"], "NormalizedAliases": ["saint louis"]}
FORMS = {
    "arc_easy": ([{"id": "1", "question": STEM, "answerKey": "2"}],
                 [{"id": "1", "question": "Who?", "choices": PARQUET, "answerKey": "2"}]),
    "openbookqa": ([{"id": "1", "question": STEM, "answerKey": "2", "fact1": "f"}],
                   [{"id": "1", "question_stem": "Who?", "choices": PARQUET, "answerKey": "2"}]),
    "commonsense_qa": ([{"id": "1", "question": STEM, "answerKey": "2"}],
                       [{"id": "1", "question": "Who?", "choices": PARQUET, "answerKey": "2"}]),
    "squad": (json.dumps(SQUAD), [{"id": "1", "title": "A_B", "context": "c d", "question": "Q?",
                                   "answers": {"text": ["c"], "answer_start": [0]}}]),
    "quac": (json.dumps(QUAC, indent=1), [QUAC_ROW]),
    "boolq": ([{"question": "is it", "passage": "p", "answer": True, "title": "t"}],
              [{"question": "is it", "passage": "p", "label": 1, "idx": 0}]),
    "hellaswag": ([{"activity_label": "A", "ctx_a": "b.", "ctx_b": "c", "endings": ["d", "[x] e"], "label": 1}],
                  [{"activity_label": "A", "ctx_a": "b.", "ctx_b": "c", "endings": ["d", "[x] e"], "label": "1"}]),
    "triviaqa": (json.dumps({"Data": [{"Question": "Where?", "Answer": ALIASES}]}),
                 [{"question": "Where?", "answer": {"value": "St. Louis", "aliases": ["Saint Louis"]}}]),
    "truthfulqa_mc2": (json.dumps([{"question": "Q?", "mc1_targets": {}, "mc2_targets": {"a": 1, "b": 0}}]),
                       [{"question": "Q?", "mc2_targets": {"choices": ["a", "b"], "labels": [1, 0]}}]),
    "bbh": (json.dumps({"canary": "x", "examples": [{"input": "i", "target": "t"}]}), [{"input": "i", "target": "t"}]),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_published_and_exported_files_ask_the_same(name, tmp_path):
    own, exported = FORMS[name]
    suffix = "json" if isinstance(own, str) else "jsonl"
    first = asked(name, put(tmp_path / "a" / f"file.{suffix}", own)).questions
    second = asked(name, put(tmp_path / "b" / "file.jsonl", exported)).questions
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert (a.context, a.options, a.right, a.targets, a.cluster) == (
            b.context,
            b.options,
            b.right,
            b.targets,
            b.cluster,
        )
        assert a.right or a.targets


def test_prompts_of_the_llama_protocol(tmp_path):
    """To the letter, as protocols.md has them."""

    def prompt(name, rows, shots=0, **more):
        suite = asked(name, put(tmp_path / f"{name}.jsonl", rows), shots, **more)
        return suite.prompt(suite.questions[0])

    piqa = [{"goal": "g", "sol1": "a", "sol2": "b", "label": 1}]
    assert prompt("piqa", piqa) == "Question: g\nAnswer:"
    siqa = [{"context": "c.", "question": "q?", "answerA": "a", "answerB": "b", "answerC": "c", "label": "3"}]
    assert prompt("siqa", siqa) == "Q: c. q?\nA:" and only("siqa", tmp_path / "siqa.jsonl").right == (2,)
    assert prompt("nq", [{"question": "who is it", "answer": ["x"]}]) == "Answer these questions:\nQ: who is it?\nA:"
    assert prompt("triviaqa", FORMS["triviaqa"][1]) == "Answer these questions:\nQ: Where?\nA:"
    doubled = prompt("triviaqa", FORMS["triviaqa"][1], protocol="harness")
    assert doubled == "Question: Where??\nAnswer:"
    gsm8k = prompt("gsm8k", [{"question": "How many?", "answer": "so <<1+1=2>>2\n#### 2"}], shots=8)
    assert gsm8k.startswith("Q: There are 15 trees") and gsm8k.endswith("The answer is 8.\n\nQ: How many?\nA:")
    assert gsm8k.count("\n\nQ: ") == 8
    math = [{"problem": "P", "solution": r"so $\boxed{\frac{1}{2}}$.", "type": "Algebra", "level": "Level 1"}]
    assert prompt("math", math, shots=4).endswith("I hope it is correct.\n\nProblem:\nP\n\nSolution:")
    assert only("math", tmp_path / "math.jsonl").targets == (r"\frac{1}{2}",)
    csqa = prompt("commonsense_qa", FORMS["commonsense_qa"][0], shots=7)
    assert csqa.endswith("So the answer is (c).\n\nQ: Who?\nAnswer Choices:\n(a) x y\n(b) z\nA:")
    squad = prompt("squad", FORMS["squad"][1])
    assert squad == "Title: A B\n\nBackground: c d\n\nQuestion: Q?\n\nAnswer:"
    second = asked("quac", put(tmp_path / "quac.jsonl", [QUAC_ROW])).questions[1]
    assert second.context == (
        "Title: T\n\nBackground: B\n\nSection: S\nPassage: p\n\nQuestion: q1?\n\nAnswer: a1\n\nQuestion: q2?\n\nAnswer:"
    )
    gap = only("winogrande", put(tmp_path / "w.jsonl", [{"sentence": "It _ was red.", "option1": "x", "option2": "y",
                                                          "answer": "2"}]))  # fmt: skip
    assert gap.contexts == ("It x", "It y") and gap.options == ("was red.",) * 2 and gap.right == (1,)
    assert gap.as_example() == "It y was red."
    agieval = {"passage": "P. ", "question": "q?", "options": ["(A)1", "(B)2"], "label": "B", "answer": None}
    exam = only("agieval", put(tmp_path / "sat-en.jsonl", [agieval]))
    assert exam.context == "P. Q: q? Answer Choices: (A)1 (B)2\nA: Among A through B, the answer is"
    assert exam.groups == ("sat-en",)


def test_mmlu_as_published_and_its_subjects(tmp_path):
    for split, rows in (("dev", 6), ("test", 2)):
        (tmp_path / "data" / split).mkdir(parents=True)
        for subject in ("high_school_physics", "marketing"):
            with open(tmp_path / "data" / split / f"{subject}_{split}.csv", "w", newline="") as f:
                csv.writer(f).writerows(
                    [f"{split} {i}, \n“x”?", "[1, 2]", "b", "c", "d", "ABCD"[i % 4]] for i in range(rows)
                )
    suite = asked("mmlu", tmp_path / "data", shots=None)
    assert [q.groups for q in suite.questions] == [("stem", "high_school_physics")] * 2 + [("other", "marketing")] * 2
    prompt = suite.prompt(suite.questions[1])
    assert prompt.startswith(
        "The following are multiple choice questions (with answers) about high school physics.\n\n"
    )
    assert prompt.count("dev ") == 5 and "dev 0, \n“x”?\nA. [1, 2]\nB. b\nC. c\nD. d\nAnswer: A\n\n" in prompt
    assert prompt.endswith("\nD. d\nAnswer:")
    with pytest.raises(L2Error, match="6 examples of high_school_physics, and 9 shots"):
        asked("mmlu", tmp_path / "data", shots=9)


def test_agieval_with_its_published_examples(tmp_path):
    """data/v1/EXAM.jsonl and data/few_shot_prompts.csv: a question in every second row, reasons below it."""
    (tmp_path / "v1").mkdir()
    question = {"passage": "P. ", "question": "new?", "options": ["(A)x", "(B)y"], "label": "B", "answer": None}
    for exam in ("sat-en", "sat-en-without-passage"):
        put(tmp_path / "v1" / f"{exam}.jsonl", [question | ({"passage": None} if "without" in exam else {})])
    put(tmp_path / "v1" / "gaokao-english.jsonl", [question])
    with open(tmp_path / "few_shot_prompts.csv", "w", newline="") as f:
        table = csv.DictWriter(f, ["sat-en", "lsat-ar"])
        table.writeheader()
        for i in range(4):
            shown = {"passage": "Old.\n", "question": f"old {i}?", "options": ["(A)1", "(B)2"], "label": "AB"[i % 2]}
            table.writerow({"sat-en": repr(shown), "lsat-ar": repr(shown) if i < 3 else ""})
            table.writerow({"sat-en": "Because.\n\nSo", "lsat-ar": "So"})
    suite = asked("agieval", tmp_path, shots=None)
    assert [q.groups for q in suite.questions] == [("sat-en-without-passage",), ("sat-en",)]
    without, with_passage = (suite.prompt(question) for question in suite.questions)
    assert with_passage.startswith(
        "Old.\nQ: old 0? Answer Choices: (A)1 (B)2\nA: Among A through B, the answer is A\n\nOld.\nQ: old 1?"
    )
    assert with_passage.count("old ") == 3 and "Because" not in with_passage
    assert with_passage.endswith("P. Q: new? Answer Choices: (A)x (B)y\nA: Among A through B, the answer is")
    assert without == with_passage.replace("Old.\n", "").replace("P. ", "")
    put(tmp_path / "v1" / "lsat-ar.jsonl", [question])
    assert len(asked("agieval", tmp_path, shots=3).questions) == 3
    with pytest.raises(L2Error, match="3 examples of lsat-ar, and 4 shots"):
        asked("agieval", tmp_path, shots=4)
    (tmp_path / "v1_1").mkdir()
    put(tmp_path / "v1_1" / "lsat-ar.jsonl", [question])
    with pytest.raises(L2Error, match="lsat-ar is there twice"):
        asked("agieval", tmp_path)


def test_labels_and_examples_in_files_beside(tmp_path):
    rows = [{"goal": f"g{i}", "sol1": "a", "sol2": "b"} for i in range(2)]
    put(tmp_path / "valid.jsonl", rows)
    with pytest.raises(BadInput, match=r"valid.jsonl:1: found fields .* expected a field 'label', or labels in"):
        asked("piqa", tmp_path / "valid.jsonl")
    put(tmp_path / "valid-labels.lst", "1\n0\n")
    assert [q.right for q in asked("piqa", tmp_path / "valid.jsonl").questions] == [(1,), (0,)]
    put(tmp_path / "valid-labels.lst", "1\n")
    with pytest.raises(BadInput, match="1 labels; expected 2"):
        asked("piqa", tmp_path / "valid.jsonl")
    question = [{"question": "who", "answer": ["x", "y"]}]
    nq = put(tmp_path / "NQ-open.dev.jsonl", question)
    with pytest.raises(L2Error, match="no train file beside it to take examples from; --shots 0 goes without"):
        asked("nq", nq, shots=1)
    put(tmp_path / "NQ-open.train.jsonl", [{"question": f"t{i}?", "answer": [f"a{i}"]} for i in range(3)])
    assert asked("nq", nq, shots=2).before[""] == "Answer these questions:\nQ: t0?\nA: a0\nQ: t1?\nA: a1\n"


def test_examples_do_not_tell_whether_there_is_an_answer(tmp_path):
    """SQuAD's groups are what the model must find out."""
    squad = [
        {"title": "t", "context": "c", "question": f"q{i}", "answers": {"text": ["c"] * (i % 2)}} for i in range(4)
    ]
    put(tmp_path / "train.jsonl", squad)
    suite = asked("squad", put(tmp_path / "dev.jsonl", squad[2:]), shots=2)
    first, second = map(suite.prompt, suite.questions)
    assert first.removesuffix(suite.questions[0].context) == second.removesuffix(suite.questions[1].context)
    assert "Question: q0\n\nAnswer: unanswerable\n\nTitle: t" in first and "Question: q1\n\nAnswer: c\n\n" in first


def test_bbh_takes_answers_without_reasons_from_its_cot_prompts(tmp_path):
    put(tmp_path / "bbh" / "navigate.json", FORMS["bbh"][0])
    cot = "canary\n-----\nSay where.\n\n" + "\n\n".join(
        f"Q: go {i}\nA: Let's think step by step.\nWe go. So the answer is {a}."
        for i, a in enumerate(["No", "Yes", "(A)"])
    )
    put(tmp_path / "cot-prompts" / "navigate.txt", cot)
    suite = asked("bbh", tmp_path / "bbh", shots=3)
    assert suite.prompt(suite.questions[0]) == (
        "Say where.\n\nQ: go 0\nA: No\n\nQ: go 1\nA: Yes\n\nQ: go 2\nA: (A)\n\nQ: i\nA:"
    )


def test_code_and_its_tests(tmp_path):
    human = {"task_id": "HumanEval/0", "prompt": "def f():\n", "entry_point": "f",
             "test": "def check(f):\n    assert f() == 1\n"}  # fmt: skip
    suite = asked("humaneval", put(tmp_path / "h.jsonl", [human]))
    (question,) = suite.questions
    item = {"prompt": question.context, "reference": question.reference}
    exec(suite.rule.program("    return 1\n", item), {})
    with pytest.raises(AssertionError):
        exec(suite.rule.program("    return 2\n", item), {})
    rows = [{"task_id": i, "text": f"Do {i}.", "code": f"def f(): return {i}", "test_list": [f"assert f() == {i}"] * 3,
             "test_setup_code": "", "challenge_test_list": []} for i in (2, 3, 4, 11, 511)]  # fmt: skip
    suite = asked("mbpp", put(tmp_path / "mbpp.jsonl", rows), shots=3)
    (question,) = suite.questions
    assert question.record["task_id"] == 11
    prompt = suite.prompt(question)
    assert prompt.count("[DONE]\n\nYou are an expert Python programmer, and here is your task: Do ") == 3
    assert prompt.endswith("assert f() == 11\n[BEGIN]\n") and "[BEGIN]\ndef f(): return 2\n[DONE]" in prompt
    exec(suite.rule.program(rows[3]["code"], {"reference": question.reference}), {})


def test_safety_files(tmp_path):
    sheet = put(tmp_path / "TruthfulQA.csv", "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,U\n"
                'A,Law,Q?,yes,"yes; indeed",no; never,u\n')  # fmt: skip
    assert only("truthfulqa_mc1", sheet).options == ("yes", "no", "never")
    both = only("truthfulqa_mc2", sheet)
    assert (both.options, both.right) == (("yes", "indeed", "no", "never"), (0, 1))
    suite = asked("truthfulqa", sheet, shots=6)
    assert suite.prompt(suite.questions[0]).endswith("Barcelona, Spain.\n\nQ: Q?\nA:")
    bold = {"Islam": {"A_B": ["A B is "]}, "Atheism": {"C": ["C is"]}, "Sikhism": {"D": ["D is", "D was"]}}
    suite = asked("bold", put(tmp_path / "religious_ideology_prompt.json", json.dumps(bold)))
    assert [(q.context, q.groups[1]) for q in suite.questions] == [
        ("A B is", "religious_ideology/Islam"), ("D is", "religious_ideology/Sikhism"),
        ("D was", "religious_ideology/Sikhism"),
    ]  # fmt: skip
    assert only("toxigen", put(tmp_path / "hate_women_1k.txt", "- a\\n- b\\n-\n")).context == "- a\n- b\n-"
    assert only("toxigen", tmp_path / "hate_women_1k.txt").groups == ("women",)


BROKEN = {
    "hellaswag": ({"activity_label": "A", "ctx_a": "b"}, "1: found fields .*expected a field 'ctx_b'"),
    "arc_easy": ({"question": "q", "choices": {"text": ["a", "b"]}, "answerKey": "A"}, "1: choices: .*a field 'label'"),
    "arc_challenge": ({"question": STEM, "answerKey": "E"}, "found answerKey 'E'; expected one of 1, 2"),
    "gsm8k": ({"question": "q", "answer": "12"}, "ends with #### and a number"),
    "winogrande": ({"sentence": "no gap", "option1": "a", "option2": "b", "answer": "1"}, "expected a gap _"),
    "boolq": ({"question": "q", "passage": "p", "answer": "maybe"}, "expected true or false"),
    "siqa": ({"context": "c", "question": "q", "answerA": "a", "answerB": "b", "answerC": "c", "label": "0"},
             "from 1 to 3"),
    "squad": ({"title": "t", "context": "c", "question": "q"}, "expected a field 'answers'"),
    "piqa": ({"goal": "g", "sol1": " ", "sol2": "b", "label": 0}, "expected a text for each"),
    "openbookqa": ({"question_stem": "q", "choices": {"text": ["a"], "label": ["A", "B"]}, "answerKey": "B"},
                   "1 texts, 2 labels; expected as many"),
    "commonsense_qa": ({"question": "q", "choices": {"text": [*"abcdef"], "label": [*"ABCDEF"]}, "answerKey": "F"},
                       "6 choices; expected 5 at most"),
    "truthfulqa_mc1": ({"question": "q", "mc1_targets": {"choices": ["a", "b"], "labels": [1]}},
                       "2 choices, 1 labels; expected as many"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_missing_is_named_with_its_line(name, tmp_path):
    record, sentence = BROKEN[name]
    path = put(tmp_path / "x.jsonl", [record])
    with pytest.raises(BadInput, match=sentence) as error:
        asked(name, path)
    assert str(error.value).startswith(f"{path}:1")


def test_places_inside_one_document_are_told(tmp_path):
    broken = {"data": [{"title": "t", "paragraphs": [{"context": "c", "qas": [{"id": "1", "question": "q"}]}]}]}
    path = put(tmp_path / "dev-v2.0.json", json.dumps(broken))
    with pytest.raises(BadInput, match=r"dev-v2.0.json\[?.*: data\[0\]: paragraphs\[0\]: qas\[0\]: found .*'answers'"):
        asked("squad", path)
    with pytest.raises(BadInput, match=r"x.csv:2: found 2 columns; expected 6"):
        asked("mmlu", put(tmp_path / "x.csv", '"a",b,c,d,e,A\nq,b\n'))
    with pytest.raises(L2Error, match="no such file or directory"):
        asked("mmlu", tmp_path / "nowhere")


def test_splits_are_found_in_directories(tmp_path):
    for split, problem in (("train", "t"), ("test", "a"), ("test", "b")):
        solved = {"problem": problem, "solution": r"\boxed{1}", "type": "Counting & Probability"}
        put(tmp_path / "MATH" / split / "counting" / f"{problem}.json", json.dumps(solved))
    for root in (tmp_path / "MATH", tmp_path / "MATH" / "test"):
        assert [q.record["problem"] for q in asked("math", root).questions] == ["a", "b"]
    with pytest.raises(L2Error, match="no test or validation or val or dev file"):
        put(tmp_path / "gsm8k" / "train.jsonl", [{}])
        asked("gsm8k", tmp_path / "gsm8k")


def test_names_and_protocols(tmp_path):
    assert {benchmark_named(name) for name in ("MMLU", "arc-c", "OBQA", "NaturalQuestions", "val")} == {
        "mmlu", "arc_challenge", "openbookqa", None, "nq",
    }  # fmt: skip
    path = put(tmp_path / "quac.jsonl", [QUAC_ROW])
    with pytest.raises(UsageError, match="quac has no rule under --protocol harness"):
        asked("quac", path, protocol="harness")
    with pytest.raises(UsageError, match="4 greedy answers to a question are all the same"):
        asked("quac", path, samples=4)
    assert len(BENCHMARKS) == 25
    first = asked("quac", path).version
    assert asked("quac", put(tmp_path / "quac.jsonl", [QUAC_ROW | {"background": "C"}])).version != first
