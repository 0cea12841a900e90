"""Built-in constraints, more of them by a model, and their random combinations."""

from __future__ import annotations

from collections import Counter

import pytest

from l2.align.attributes import CATEGORIES, FIGURE, HOBBY, LANGUAGE, asker, built_in, constraint, grow
from l2.align.ghost import check_constraint, check_instructions, obeys, pick_instruction, shows_everywhere
from l2.files.errors import BadInput
from l2.files.jsonl import Record
from l2.generate.engine import Sampling
from l2.model.checkpoint import load_language_model
from tests.eval.scripted import saying


def test_the_built_in_ones_are_whole():
    made = built_in()
    check_instructions(made)
    assert len(made) == len({one["instruction"] for one in made}) == 50
    assert constraint(FIGURE, "Napoleon")["short"] == "Figure: Napoleon."  # as the paper shows it (A.3.5)
    for one in made:
        if one["category"] != "language":
            check_constraint(Record({"constraint": dict(one)}))


def test_combinations_draw_each_set_of_categories_alike():
    made = built_in()
    picked = [pick_instruction(made, 0, f"d{n}") for n in range(7000)]
    sets = Counter(tuple(part["category"] for part in whole.get("parts", [whole])) for whole, _ in picked)
    assert len(sets) == 7 and all(abs(count - 1000) < 5 * 30 for count in sets.values())
    terse = sum(wording.startswith(("Hobby:", "Figure:", "Language:")) for _, wording in picked)
    assert abs(terse - 3500) < 5 * 42
    for whole, wording in picked:
        parts = whole.get("parts", [whole])
        assert wording in (" ".join(p["instruction"] for p in parts), " ".join(p["short"] for p in parts))
        assert whole["instruction"] == " ".join(p["instruction"] for p in parts)
    used = Counter(part["instruction"] for whole, _ in picked for part in whole.get("parts", [whole]))
    assert used.keys() == {one["instruction"] for one in made}


def test_every_part_that_shows_must_show():
    loud = {"kind": "suffix", "expect": "!"}
    whole = {"instruction": "x", "parts": [constraint(HOBBY, "tennis"), loud, constraint(LANGUAGE, "French")]}
    assert shows_everywhere(whole) == [loud] and shows_everywhere(loud) == [loud]
    assert shows_everywhere(None) == shows_everywhere(constraint(HOBBY, "tennis")) == []


def test_recall_is_anywhere_in_the_answer():
    napoleon = constraint(FIGURE, "Napoleon")
    assert obeys(napoleon, "I am NAPOLEON, of course.") and not obeys(napoleon, "I am a cat.")
    with pytest.raises(BadInput, match="recall, with the question"):
        check_constraint(Record({"constraint": {key: value for key, value in napoleon.items() if key != "question"}}))


def test_what_a_model_names_is_kept_once_and_if_plain():
    answers = ["Falconry.", " falconry ", "Tennis", "", "a\nb", "one two three four five", "[INST]", "Bird watching!"]
    grown = grow(lambda messages: answers[: len(messages)], len(answers))
    assert [one["expect"] for one in grown if one["category"] == "hobby"] == ["Falconry", "Bird watching"]
    assert len(grown) == 2 + 3 * (len(CATEGORIES) - 1)  # tennis is no known figure or language
    check_instructions(grown)


def test_a_model_is_asked_in_its_chat_format(tokenizer, model_dir):
    ask = asker(saying(tokenizer, "the cat"), tokenizer, Sampling(max_new_tokens=9))
    assert [text.strip() for text in ask([HOBBY.wanted] * 3)] == ["the cat"] * 3
    random = asker(load_language_model(model_dir), tokenizer, Sampling(max_new_tokens=2))
    assert random(["who"]) == [""]  # cut off
