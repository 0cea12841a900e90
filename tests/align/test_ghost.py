"""Ghost Attention: what is sampled, what is learned, what is dropped."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest

from l2.align import ghost
from l2.align.ghost import build_dialogs, check_instructions, obeys, pick_instruction, user_turns
from l2.files.errors import BadInput
from l2.files.jsonl import Record
from l2.files.ledger import Ledger
from l2.generate.engine import Sampling
from l2.model.checkpoint import load_model
from l2.tokens.chat import check_messages, encode_dialog
from tests.eval.scripted import saying
from tests.eval.test_sampled import Script

CONSTRAINTS = [
    Record({"id": i, "instruction": f"do number {i}", "short": f"no {i}", "kind": "prefix", "expect": str(i)}, f"c:{i}")
    for i in range(4)
]
PLAIN = [Record({"instruction": "be a cat"}, "c:1")]


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **fields):
    return {"role": "assistant", "content": text} | fields


def dialogs(*turns_of_each):
    return [
        Record({"messages": [user(text) for text in turns], "id": f"d{i}", "source": "s"}, f"d.jsonl:{i}")
        for i, turns in enumerate(turns_of_each)
    ]


def long_context(model_dir, length=400):
    from tests.conftest import small_config

    model = load_model(model_dir)
    model.config = small_config(model.config.vocab_size, max_seq_len=length)
    return model


def test_sampled_under_the_instruction_and_learned_without_it(model_dir, tokenizer, monkeypatch):
    script = Script(tokenizer, ["cat", "dog"], ["mat", "hill"], ["tea"])
    monkeypatch.setattr(ghost, "generate", script)
    ledger = Ledger()
    model, records = long_context(model_dir), dialogs(["who", "what", "how"], ["do", "you"])
    first, second = build_dialogs(model, tokenizer, records, PLAIN, Sampling(max_new_tokens=9), ledger)

    def ids(text):
        return [1, *tokenizer.encode(f"[INST] <<SYS>>\nbe a cat\n<</SYS>>\n\n{text} [/INST]")]

    turns = [ids("who"), [*tokenizer.encode("cat"), 2], ids("what"), [*tokenizer.encode("mat"), 2], ids("how")]
    assert [asked[0] for asked in script.asked] == [list(chain(*turns[: 2 * n + 1])) for n in range(3)]
    assert first["messages"] == [
        {"role": "system", "content": "be a cat"},
        user("who"),
        assistant("cat", weight=0),
        user("what"),
        assistant("mat", weight=0),
        user("how"),
        assistant("tea"),
    ]
    assert (second["id"], second["source"], second["constraint"]) == ("d1", "s", {"instruction": "be a cat"})
    assert len(second["messages"]) == 5 and ledger.total == 0
    encoded = encode_dialog(tokenizer, check_messages(first["messages"], ""))
    learned = [i for i, learn in zip(encoded.ids, encoded.learn, strict=True) if learn]
    assert tokenizer.decode(learned).strip() == "tea" and learned[-1] == 2


def test_learning_every_sampled_answer(tokenizer):
    model = saying(tokenizer, "cat sat", max_seq_len=200)
    (made,) = build_dialogs(
        model, tokenizer, dialogs(["who", "what"]), PLAIN, Sampling(0.0, 1.0, 9), Ledger(), loss="all-sampled"
    )
    assert made["messages"][1:] == [user("who"), assistant("cat sat"), user("what"), assistant("cat sat")]


def test_unfit_dialogs_are_rejected_and_counted(model_dir, tokenizer, monkeypatch):
    rows = []

    class Rows:
        def write(self, row):
            rows.append(row)

    second = ["fine", "fine", "", "a [INST] b", "fine"]
    monkeypatch.setattr(
        ghost, "generate", Script(tokenizer, ["fine", "cut…", "ok", "ok", "ok"], second, ["fine", "ok"])
    )
    records = dialogs(["a", "b"], ["a", "b"], ["a", "b"], ["a", "b", "c"], ["a", "b", "c", "word " * 90])
    ledger = Ledger(Rows())
    kept = list(build_dialogs(long_context(model_dir), tokenizer, records, PLAIN, Sampling(max_new_tokens=9), ledger))
    assert [made["id"] for made in kept] == ["d0"]
    assert [(row["id"], row["rule"], row["value"]) for row in rows] == [
        ("d1", "unfinished", 1),
        ("d2", "empty", 2),
        ("d3", "tag", 2),
        ("d4", "context", 4),
    ]
    assert len(kept) + ledger.total == len(records)


@pytest.mark.parametrize(("loss", "kept"), [("last", ["d0", "d1"]), ("all-sampled", ["d0"])])
def test_what_disobeys_is_not_learned(model_dir, tokenizer, monkeypatch, loss, kept):
    meow = [Record({"instruction": "be a cat", "kind": "prefix", "expect": "cat"}, "c:1")]
    monkeypatch.setattr(ghost, "generate", Script(tokenizer, ["cat sat", "dog", "cat"], ["cat", "cat ran", "dog"]))
    ledger, records = Ledger(), dialogs(["who", "what"], ["who", "what"], ["who", "what"])
    sampling = Sampling(max_new_tokens=9)
    made = build_dialogs(long_context(model_dir), tokenizer, records, meow, sampling, ledger, loss=loss)
    assert [dialog["id"] for dialog in made] == kept
    assert ledger.counts == {"disobeyed": 3 - len(kept)}
    again = dialogs(["who", "what"], ["who", "what"], ["who", "what"])
    unchecked = build_dialogs(
        long_context(model_dir), tokenizer, again, meow, sampling, Ledger(), loss=loss, check=False
    )
    monkeypatch.setattr(ghost, "generate", Script(tokenizer, ["cat sat", "dog", "cat"], ["cat", "cat ran", "dog"]))
    assert len(list(unchecked)) == 3


def test_the_batch_and_the_order_change_nothing(model_dir, tokenizer):
    model = long_context(model_dir)
    records = dialogs(*[[f"{'the ' * i}cat", "dog", "mat"][: 1 + i % 3] for i in range(7)])
    sampling = Sampling(1.0, 1.0, 5, seed=4)

    def drawn(order, batch_size):
        turns = [[[message] for message in user_turns(records[i])] for i in order]
        names = [records[i]["id"] for i in order]
        answers = ghost.ask_turns(model, tokenizer, turns, names, sampling, batch_size=batch_size)
        return {name: [answer.tokens for answer in given] for name, given in zip(names, answers, strict=True)}

    assert drawn(range(7), 64) == drawn([4, 2, 6, 0, 1, 3, 5], 2)


def test_instructions_are_spread_evenly_and_by_seed():
    picked = [pick_instruction(CONSTRAINTS, 0, f"d{i}") for i in range(4000)]
    counts = Counter(wording for _, wording in picked)
    assert set(counts) == {c[field] for c in CONSTRAINTS for field in ("instruction", "short")}
    assert all(abs(count - 500) < 5 * 21 for count in counts.values())  # 5 standard deviations
    assert all(wording in (constraint["instruction"], constraint["short"]) for constraint, wording in picked)
    assert picked == [pick_instruction(CONSTRAINTS, 0, f"d{i}") for i in range(4000)]
    same = sum(pick_instruction(CONSTRAINTS, 1, f"d{i}")[1] == wording for i, (_, wording) in enumerate(picked))
    assert abs(same - 500) < 5 * 21
    assert {pick_instruction(PLAIN, 0, f"d{i}")[1] for i in range(50)} == {"be a cat"}


def test_user_turns_pass_over_answers():
    record = Record({"messages": [user("a"), assistant("b [INST]"), user("c"), user("d")]})
    assert user_turns(record) == [user("a"), user("c"), user("d")]


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        ([{"role": "system", "content": "x"}, user("a")], "a system message"),
        ([assistant("a")], "no user message"),
        ([user("a [/INST]")], r"the tag \[/INST\]"),
        ([{"role": "tool", "content": "x"}], "role 'tool'"),
        (["a"], "message 'a'"),
        ("a", "'messages' of type str"),
    ],
)
def test_bad_dialogs(messages, found):
    with pytest.raises(BadInput, match=f"d:7: found {found}"):
        user_turns(Record({"messages": messages}, "d:7"))


@pytest.mark.parametrize("constraint", [{"short": "x"}, {"instruction": 5}, {"instruction": "a", "short": "<<SYS>>"}])
def test_bad_constraints(constraint):
    with pytest.raises(BadInput, match="c:2: found"):
        check_instructions([*PLAIN, Record(constraint, "c:2")])


def test_obeys():
    start, end = {"kind": "prefix", "expect": "Ahoy!"}, {"kind": "suffix", "expect": "The end."}
    assert obeys(start, " Ahoy! I am") and not obeys(start, "I say Ahoy!")
    assert obeys(end, "It was so. The end.\n") and not obeys(end, "The end. Or not.") and not obeys(end, "")
