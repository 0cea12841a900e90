"""Preferences as ids: strings and messages, margins and labels, and everything that is no preference."""

from __future__ import annotations

import pytest

from l2.align.preferences import EXCLUDED, SAFE, UNLABELLED, encode_pair, margins_of, mixed, valid
from l2.files.errors import BadInput, UsageError
from l2.files.jsonl import Record
from l2.tokens.chat import encode_dialog

USER, CAT, DOG = ({"role": r, "content": c} for r, c in (("user", "who"), ("assistant", "cat"), ("assistant", "dog")))


def pair(tokenizer, margin="none", **fields):
    record = Record({"prompt": "who", "chosen": "cat", "rejected": "dog"} | fields, "p.jsonl:3")
    return encode_pair(record, tokenizer, 64, margins_of(margin))


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


def test_margins_from_a_file(tokenizer, tmp_path):
    path = tmp_path / "margins.json"
    path.write_text('{"significantly": 2.5, "worlds apart": 7, "better": 0}')
    assert pair(tokenizer, str(path), rating="significantly").margin == 2.5
    assert pair(tokenizer, str(path), rating="worlds apart").margin == 7.0
    with pytest.raises(BadInput, match="rating 'slightly'; expected one of significantly, worlds apart, better"):
        pair(tokenizer, str(path), rating="slightly")
    for text in ("[1]", "{", '{"better": "x"}', '{"better": -1}', "{}", '{"better": true}', ""):
        path.write_text(text)
        with pytest.raises(BadInput, match=r"margins.json: found .* expected an object \{rating: margin"):
            margins_of(str(path))
    with pytest.raises(UsageError, match="--margin medium: neither one of none, small, large nor a file"):
        margins_of("medium")


def pairs_of(**counts):
    """{kind_source: how many}."""
    for name, count in counts.items():
        kind, source = name.split("_")
        for i in range(count):
            yield Record({"kind": kind, "n": f"{name}{i}"} | ({} if source == "none" else {"source": source}))


def tally(records):
    found: dict[str, int] = {}
    for record in records:
        name = f"{record['kind']}_{record.get('source', 'none')}"
        found[name] = found.get(name, 0) + 1
    return found


def test_the_papers_two_mixes():
    """§3.2.2: helpful is half own helpfulness, half of the rest; safe is nine tenths safety of whatever source."""
    records = list(pairs_of(helpful_human=60, helpful_none=30, safe_human=100, helpful_hh=100, safe_hh=100))
    helpful = mixed(records, "helpful", seed=0)
    found = tally(helpful)
    assert (found["helpful_human"], found["helpful_none"], len(helpful)) == (60, 30, 180)
    drawn = [found[name] for name in ("safe_human", "helpful_hh", "safe_hh")]
    assert sum(drawn) == 90 and min(drawn) > 15  # uniform: 30 ± 3.6 each
    safe = mixed(records, "safe", seed=0)
    found = tally(safe)
    assert (found["safe_human"], found["safe_hh"], len(safe)) == (100, 100, 222)
    assert len({record["n"] for record in safe}) == 222
    order = [record["n"] for record in records]
    assert [r["n"] for r in safe] == sorted((r["n"] for r in safe), key=order.index)
    assert mixed(records, "safe", seed=0) == safe != mixed(records, "safe", seed=1)
    few = list(pairs_of(helpful_human=9, safe_human=2))
    assert len(mixed(few, "helpful", 0)) == 11 and len(mixed(few, "safe", 0)) == 2
    with pytest.raises(BadInput, match="found kind None; expected helpful or safe"):
        mixed([Record({}, "p:1")], "safe", 0)
    with pytest.raises(UsageError, match="no pair of kind helpful of your own"):
        mixed(list(pairs_of(helpful_hh=3)), "helpful", 0)
    with pytest.raises(UsageError, match=r"no pair of kind safe$"):  # which may be anybody's
        mixed(list(pairs_of(helpful_hh=3)), "safe", 0)
    with pytest.raises(UsageError, match="choose helpful or safe"):
        mixed(few, "harmless", 0)


def test_who_prefers_the_unsafe_answer_is_left_out():
    records = [Record({"safety": label}) for label in (*SAFE, EXCLUDED, None)]
    assert [record["safety"] for record in valid(records)] == [*SAFE, None]
