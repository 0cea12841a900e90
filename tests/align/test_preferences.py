"""Preferences as ids: strings and messages, margins and labels, and everything that is no preference."""

from __future__ import annotations

import pytest

from l2.align.preferences import SAFE, UNLABELLED, encode_pair
from l2.files.errors import BadInput
from l2.files.jsonl import Record
from l2.tokens.chat import encode_dialog

USER, CAT, DOG = ({"role": r, "content": c} for r, c in (("user", "who"), ("assistant", "cat"), ("assistant", "dog")))


def pair(tokenizer, margin="none", **fields):
    record = Record({"prompt": "who", "chosen": "cat", "rejected": "dog"} | fields, "p.jsonl:3")
    return encode_pair(record, tokenizer, 64, margin)


def test_strings_messages_and_whole_conversations_are_the_same_pair(tokenizer):
    plain = pair(tokenizer)
    assert plain.chosen == encode_dialog(tokenizer, [USER, CAT]).ids and plain.chosen[-1] == tokenizer.eos_id
    assert plain == pair(tokenizer, prompt=[USER], chosen=[CAT], rejected=[DOG])
    assert plain == pair(tokenizer, prompt=[USER | {"weight": 1}], chosen=[USER, CAT], rejected=[USER, DOG])


def test_margins_and_labels(tokenizer):
    assert pair(tokenizer, "small", rating="significantly").margin == 1.0
    assert pair(tokenizer, "large", rating="significantly").margin == 3.0
    assert pair(tokenizer, rating="better").margin == 0.0
    assert pair(tokenizer).safe == UNLABELLED and pair(tokenizer, safety="chosen_safe").safe == SAFE["chosen_safe"]


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"prompt": ["hi"]}, "message 'hi'"),
        ({"prompt": []}, r"messages \[\]"),
        ({"prompt": [{"role": "user"}]}, "message {'role': 'user'}"),
        ({"prompt": [USER, CAT]}, "role 'assistant'"),
        ({"chosen": "a [/INST] b"}, r"the tag \[/INST\]"),
        ({"chosen": [USER]}, "ends with the user"),
        ({"chosen": [5]}, "message 5"),
        ({"rejected": "cat"}, "chosen equal to rejected"),
        ({"rating": ["better"]}, "'rating' of type list"),
        ({"safety": {}}, "'safety' of type dict"),
        ({"safety": "rejected_safe"}, "safety 'rejected_safe'"),
        ({"chosen": "cat " * 90}, "a conversation of"),
    ],
)
def test_what_is_no_preference_is_told_by_line(tokenizer, fields, found):
    with pytest.raises(BadInput, match=f"p.jsonl:3: found {found}|p.jsonl:3: found .*{found}"):
        pair(tokenizer, **fields)


def test_a_rating_without_a_margin(tokenizer):
    with pytest.raises(BadInput, match="rating None"):
        pair(tokenizer, "small")
