"""Evaluation items in documents: what is found is what a search through the words finds."""

from __future__ import annotations

import json
import os
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2.files.errors import BadInput, L2Error
from l2.files.ledger import Ledger
from l2.text.contamination import COMMON, Contamination, Item, read_items
from l2.text.filtering import filter_documents
from l2.text.pipeline import FilterSettings

QUESTION = "Which of the four moons that Galileo saw in 1610 is the one with the most active volcanoes?"  # 17 words


def brute_force(items: list[list[list[str]]], document: list[str]) -> bool:
    """Whether any n-gram of an item's texts, all lists of words, stands in the document and is not common."""

    def grams(words, n):
        return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}

    for item in items:
        for words in item:
            n = min(13, len(words))
            for gram in grams(words, n) if n >= 8 else ():
                owners = sum(any(min(13, len(w)) == n and gram in grams(w, n) for w in other) for other in items)
                if owners <= COMMON and gram in grams(document, n):
                    return True
    return False


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 14), st.integers(1, 3))
def test_found_is_what_a_search_finds(rng, count, letters):
    alphabet = "abc"[:letters]
    items = [[rng.choices(alphabet, k=rng.randint(1, 18)) for _ in range(rng.randint(1, 2))] for _ in range(count)]
    try:
        index = Contamination(Item("t", str(i), [" ".join(w) for w in texts]) for i, texts in enumerate(items))
    except BadInput:
        index = None
    for _ in range(8):
        document = rng.choices(alphabet, k=rng.randint(0, 30))
        match = index.find(" ".join(document)) if index else None
        assert (match is not None) == brute_force(items, document)
        if match:
            assert f" {match.ngram} " in f" {' '.join(document)} "
            assert any(f" {match.ngram} " in f" {' '.join(words)} " for words in items[int(match.item)])


def test_twelve_words_of_thirteen_are_not_enough_and_case_and_signs_do_not_matter():
    words = QUESTION.rstrip("?").split()
    index = Contamination([Item("t", "q", [QUESTION])])
    for start in range(5):
        part = words[start : start + 13]
        assert (index.find(f"So: {' '.join(part).upper()}... yes") is not None) == (len(part) == 13)
        assert index.find(" ".join(["x", *part[:12], "y"])) is None
        assert index.find(" -- ".join(part)) is not None
    assert index.find(" ".join(words[:12])) is None and index.find("") is None


def test_a_short_text_counts_whole_and_a_shorter_one_not_at_all():
    index = Contamination([Item("t", "q", ["one two three four five six seven eight nine", "a b c d e f g"])])
    assert index.find("zero one two three four five six seven eight nine ten").ngram.count(" ") == 8
    assert index.find("one two three four five six seven eight, ten") is None
    assert index.find("a b c d e f g") is None


def test_an_equal_hash_alone_is_no_match(monkeypatch):
    monkeypatch.setattr("l2.text.contamination.xxhash.xxh3_64_intdigest", lambda word: 1)
    index = Contamination([Item("t", "q", [QUESTION])])
    assert index.find("word " * 40) is None
    assert index.find(QUESTION) is not None


def test_what_stands_in_many_items_is_a_template():
    def items(count):
        return [Item("t", str(i), [f"{QUESTION} {chr(97 + i) * 3}"]) for i in range(count)]

    assert Contamination(items(COMMON)).find(QUESTION) is not None
    index = Contamination(items(COMMON + 1))
    assert index.find(QUESTION) is None
    assert index.find(f"{QUESTION} ccc").item == "2"


def test_items_come_from_the_fields_of_tasks_and_from_lines_of_text(tmp_path):
    rows = [
        {"id": 7, "question": "q", "choices": ["a", "b"], "answer": 1, "other": "no"},
        {"prompt": "p", "target": "t", "id": None},
        {"messages": [{"role": "user", "content": "m"}], "constraint": "no"},
        {"question": "q2", "choices": {"text": ["x", "y"], "label": ["A", "B"]}},
    ]
    path = tmp_path / "task.jsonl"
    path.write_text("\n" + "".join(json.dumps(row) + "\n" for row in rows))
    assert [(item.id, item.texts) for item in read_items([path])] == [
        ("7", ["q", "a", "b"]),
        (f"{path}:3", ["p", "t"]),
        (f"{path}:4", ["user", "m"]),
        (f"{path}:5", ["q2", "x", "y", "A", "B"]),
    ]
    text = tmp_path / "task.txt"
    text.write_text("\nA first line.\n\n [and] a second\n")
    assert [(item.id, item.texts) for item in read_items([text])] == [
        (f"{text}:2", ["A first line."]),
        (f"{text}:4", ["[and] a second"]),
    ]
    assert len(list(read_items([str(tmp_path / "task.*")]))) == 6


@pytest.mark.parametrize("line", [json.dumps({"question": QUESTION}), QUESTION])
def test_items_may_come_through_a_pipe(tmp_path, line):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=[f"\n{line}\n" * 5000])
    writer.start()
    items = list(read_items([tmp_path / "pipe"]))
    writer.join()
    assert [item.id for item in items] == [f"{tmp_path}/pipe:{2 * n}" for n in range(1, 5001)]
    assert all(item.texts == [QUESTION] for item in items)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "no items"),
        (b" \n\n", "no items"),
        (b'{"question": ', ":1: found no valid JSON"),
        (b'{"id": 1, "body": "x"}\n', ":1: found fields .*; expected one of question, prompt"),
        (b"fine\n\xff\n", ":2: found invalid UTF-8"),
    ],
)
def test_files_that_are_no_tasks(tmp_path, content, sentence):
    (tmp_path / "task").write_bytes(content)
    with pytest.raises(BadInput, match=sentence):
        list(read_items([tmp_path / "task"]))
    with pytest.raises(L2Error, match="no such file"):
        list(read_items([tmp_path / "none"]))
    with pytest.raises(BadInput, match="no item that could be told"):
        Contamination([Item("t", "1", ["too short"])])


def test_planted_items_are_dropped_and_named(tmp_path):
    """200 documents of random words, in every fifth of which an item stands."""
    rng = random.Random(0)
    words = ["".join(rng.choices("aeiounrtsl", k=6)) for _ in range(2000)]
    tasks = [{"id": f"q{i}", "question": " ".join(rng.choices(words, k=20))} for i in range(40)]
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    documents = []
    for i in range(200):
        text = rng.choices(words, k=300)
        if i % 5 == 0:
            text.insert(rng.randrange(300), f"\n{tasks[i // 5]['question'].capitalize()}?\n")
        documents.append({"id": i, "text": " ".join(text)})
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    asked = {"quality": (), "dedup": "none", "decontaminate": (str(tmp_path / "task.jsonl"),)}
    kept, rows = [], []
    writer, ledger = type("W", (), {"write": kept.append})(), type("W", (), {"write": rows.append})()
    filter_documents([tmp_path / "docs.jsonl"], writer, Ledger(ledger), FilterSettings(**asked))
    assert [row["id"] for row in rows] == list(range(0, 200, 5))
    for row in rows:
        task = tasks[row["id"] // 5]
        assert (row["rule"], row["value"]["task"], row["value"]["item"]) == (
            "contaminated", str(tmp_path / "task.jsonl"), task["id"]
        )  # fmt: skip
        assert row["value"]["ngram"] in task["question"] and row["value"]["ngram"].count(" ") == 12
    assert len(kept) == 160 and all(document["scores"] == {"contaminated": 0} for document in kept)
