"""Dialogs in the formats people have, each against the messages that it means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2.align.dialogs import FORMATS, detect, dialog_of, read_dialogs
from l2.files.errors import BadInput
from l2.files.jsonl import Record


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be brief."}
SAME = [
    ("messages", {"messages": [user("Hi"), assistant("Ho")]}),
    ("sharegpt", {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}),
    ("sharegpt", {"conversations": [user("Hi"), assistant("Ho")]}),
    ("preference", {"prompt": "Hi", "chosen": "Ho", "rejected": "No"}),
    ("preference", {"prompt": [user("Hi")], "chosen": [assistant("Ho")], "rejected": [assistant("No")]}),
    ("preference", {"chosen": [user("Hi"), assistant("Ho")], "rejected": [user("Hi"), assistant("No")]}),
    ("preference", {"prompt": "Hi", "chosen": [user("Hi"), assistant("Ho")]}),
    ("prompt-completion", {"prompt": "Hi", "completion": "Ho"}),
    ("prompt-completion", {"prompt": [user("Hi")], "completion": [assistant("Ho")]}),
    ("prompt-completion", {"prompt": "Hi", "response": "Ho", "finish": "stop"}),
    ("alpaca", {"instruction": "Hi", "input": "", "output": "Ho"}),
    ("alpaca", {"instruction": "Hi", "output": "Ho"}),
]


@pytest.mark.parametrize(("form", "fields"), SAME)
def test_all_formats_say_the_same(form, fields):
    assert dialog_of(Record(fields)) == dialog_of(Record(fields), form) == [user("Hi"), assistant("Ho")]
    assert detect(Record(fields)) == form


def test_what_some_formats_have_besides():
    alpaca = {"instruction": "Add.", "input": "1, 2", "output": "3", "system": "Be brief."}
    assert dialog_of(Record(alpaca)) == [SYSTEM, user("Add.\n\n1, 2"), assistant("3")]
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho", "weight": 0}]
    expected = [SYSTEM, user("Hi"), assistant("Ho") | {"weight": 0}]
    assert dialog_of(Record({"system": "Be brief.", "conversations": turns})) == expected
    said = [{"from": "system", "value": "Be brief."}, *turns]
    assert dialog_of(Record({"conversations": said})) == expected
    weighted = {"messages": [SYSTEM, user("Hi"), assistant("Ho") | {"weight": 1}]}
    assert dialog_of(Record(weighted)) == weighted["messages"]


def test_messages_win_over_other_fields_unless_a_format_is_asked_for():
    both = Record({"messages": [user("a"), assistant("b")], "instruction": "c", "output": "d"})
    assert dialog_of(both)[0] == user("a") and dialog_of(both, "alpaca")[0] == user("c")


@pytest.mark.parametrize(
    ("fields", "form", "found"),
    [
        ({"text": "x"}, None, "fields text; expected messages; conversations; chosen"),
        ({}, None, "fields none"),
        ({"prompt": "x"}, None, "fields prompt"),
        ({"conversations": [{"from": "function_call", "value": "f()"}]}, None, "role 'function_call'; expected one of"),
        ({"conversations": [{"value": "f()"}]}, None, "role None"),
        ({"conversations": ["hi"]}, None, "message 'hi'"),
        ({"conversations": [{"from": "human"}]}, None, "content"),
        ({"messages": [user("x"), {"role": "tool", "content": "1"}]}, None, "role 'tool'"),
        ({"messages": [user("x"), assistant("") | {"tool_calls": [{}]}]}, None, "a message with tool_calls"),
        ({"messages": [user("x"), {"role": "assistant", "content": [{"type": "text"}]}]}, None, "text content"),
        ({"chosen": "x"}, None, "'chosen' of type str; expected list"),
        ({"instruction": "x", "output": 1}, None, "'output' of type int"),
        ({"instruction": "x", "output": "y", "input": 3}, None, "'input' of type int"),
        ({"instruction": "x", "output": "y", "system": 3}, None, "'system' of type int"),
        ({"conversations": [{"from": "gpt", "value": "x"}]}, None, "role 'assistant'"),
        ({"prompt": "x", "completion": "y [/INST]"}, None, r"the tag \[/INST\]"),
        ({"prompt": "x", "completion": "y"}, "alpaca", "a field 'instruction'"),
    ],
)
def test_what_is_no_dialog_is_told_by_line(fields, form, found):
    with pytest.raises(BadInput, match=rf"a\.jsonl:3: found .*{found}|a\.jsonl:3: .*{found}"):
        dialog_of(Record(fields, "a.jsonl:3"), form)


def test_bad_ones_are_handed_over_and_the_rest_is_read():
    records = [Record(fields, f"a.jsonl:{n}") for n, (_, fields) in enumerate([*SAME, ("", {"x": 1}), *SAME], 1)]
    bad: list[BadInput] = []
    read = list(read_dialogs(records, on_bad=bad.append))
    assert len(read) == 2 * len(SAME) and [error.where for error in bad] == [f"a.jsonl:{len(SAME) + 1}"]
    assert all(record["messages"] == [user("Hi"), assistant("Ho")] for record in read)
    with pytest.raises(BadInput):
        list(read_dialogs([Record({"x": 1})]))


PART = st.sampled_from([None, 0, "x", [], {}, [{}], user("x"), assistant("y"), {"from": "gpt", "value": None}])
VALUE = PART | st.lists(PART, max_size=3)
FIELDS = ["messages", "conversations", "chosen", "prompt", "completion", "output", "instruction", "input", "system"]


@given(st.dictionaries(st.sampled_from(FIELDS), VALUE))
def test_anything_else_is_bad_input(fields):
    for form in (None, *FORMATS):
        try:
            messages = dialog_of(Record(fields), form)
        except BadInput:
            continue
        assert all(isinstance(message["content"], str) for message in messages)
