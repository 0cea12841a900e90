"""Examples on disk and fine-tuning's rows, against the dialogs themselves."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from l2.align.examples import Examples, encode_examples, fit, read_examples, shown
from l2.align.sft import FineTuning, Source, packed_micro, visits
from l2.files.errors import BadInput
from l2.files.jsonl import Record, write_records
from l2.model.checkpoint import new_model
from l2.tokens.chat import EncodedDialog, encode_dialog
from tests.conftest import sentences, small_config

BOS, EOS = 1, 2


def dialog_records(count: int, turns: int = 1) -> list[Record]:
    said = sentences(2 * count * turns)
    made = []
    for i in range(count):
        words = said[2 * turns * i : 2 * turns * (i + 1)]
        roles = ["user", "assistant"] * turns
        messages = [{"role": role, "content": text} for role, text in zip(roles, words, strict=True)]
        made.append(Record({"messages": messages}, f"d.jsonl:{i + 1}"))
    return made


@given(st.lists(st.lists(st.tuples(st.integers(0, 31999), st.booleans()), min_size=1, max_size=9), max_size=9))
def test_what_is_stored_comes_back(dialogs):
    examples = Examples()
    for dialog in dialogs:
        ids, learn = map(list, zip(*dialog, strict=True))
        examples.append(EncodedDialog(ids, learn), len(ids))
    assert len(examples) == len(dialogs) and examples.lengths.tolist() == [len(d) for d in dialogs]
    for example, dialog in zip(examples, dialogs, strict=True):
        assert list(zip(example.ids.tolist(), example.learn.tolist(), strict=True)) == dialog
    with pytest.raises(IndexError):
        examples[len(dialogs)]


def turn(prompt: int, answer: int, weight: bool = True) -> tuple[list[int], list[bool]]:
    ids = [BOS, *[9] * (prompt - 1), *[7] * (answer - 1), EOS]
    return ids, [False] * prompt + [weight] * answer


@pytest.mark.parametrize(
    ("turns", "kept"),
    [
        ([turn(4, 6)], 10),  # fits
        ([turn(4, 6), turn(4, 5)], 19),  # exactly
        ([turn(4, 6), turn(4, 6)], 10),  # the second answer does not fit whole
        ([turn(4, 6), turn(4, 5), turn(3, 3)], 19),  # a turn begins where the room ends
        ([turn(4, 30)], 19),  # no answer fits whole: cut in two
        ([turn(4, 3, False), turn(4, 30)], 19),  # nothing to learn in what fits whole: likewise
        ([turn(4, 3, False), turn(16, 5)], 0),  # the answer lies beyond
        ([turn(19, 2)], 0),
        ([turn(4, 6, False)], 0),
    ],
)
def test_whole_turns_are_kept_and_answers_cut_only_in_need(turns, kept):
    ids, learn = ([x for one in turns for x in one[part]] for part in (0, 1))
    assert fit(EncodedDialog(ids, learn), 19, BOS) == kept


def test_dialogs_that_are_cut_are_counted(tokenizer):
    records = dialog_records(6, turns=2)
    whole = [encode_dialog(tokenizer, record["messages"]) for record in records]
    second = [dialog.ids.index(BOS, 1) for dialog in whole]
    room = max(second)
    examples = encode_examples(records, tokenizer, room)
    assert (examples.cut_turns, examples.cut_answers) == (sum(len(d.ids) > room for d in whole), 0)
    assert all(example.ids.tolist() == d.ids[: len(example.ids)] for example, d in zip(examples, whole, strict=True))
    assert all(example.ids[-1] == EOS for example in examples)
    short = min(dialog.learn.index(True) for dialog in whole) + 1
    bad: list[BadInput] = []
    examples = encode_examples(records, tokenizer, short, bad.append)
    assert len(examples) + len(bad) == len(records) and examples.cut_answers == len(examples) >= 1
    with pytest.raises(BadInput, match=r"d\.jsonl:1: found no assistant token to learn in the first 3 tokens"):
        encode_examples(records, tokenizer, 3)


def test_a_file_and_a_pipe_of_it(tokenizer, tmp_path, monkeypatch):
    """The same examples; a file's hash is that of its bytes."""
    path = tmp_path / "d.jsonl"
    write_records(path, dialog_records(5))
    examples, sha256 = read_examples(str(path), tokenizer, 64)
    with open(path) as stream:
        monkeypatch.setattr("sys.stdin", stream)
        piped, piped_sha256 = read_examples("-", tokenizer, 64)
    assert [e.ids.tolist() for e in examples] == [e.ids.tolist() for e in piped]
    assert sha256 == piped_sha256  # the file was written as records are hashed


def test_the_learned_part_is_shown(tokenizer):
    (record,) = dialog_records(1, turns=2)
    first, answer, second, last = (message["content"] for message in record["messages"])
    (example,) = encode_examples([record], tokenizer, 200)
    assert list(shown(example, tokenizer)) == [
        (f"<s>[INST] {first} [/INST]", False),
        (f" {answer} </s>", True),
        (f"<s>[INST] {second} [/INST]", False),
        (f" {last} </s>", True),
    ]


@settings(deadline=None)
@given(st.integers(1, 40), st.floats(0.05, 3.5), st.integers(1, 5), st.integers(0, 3))
def test_each_dialog_is_read_as_often_as_the_mix_says(size, epochs, passes, seed):
    read = Counter(int(i) for number in range(passes) for i in visits(size, epochs, seed, 0, number))
    assert sum(read.values()) == round(passes * epochs * size)
    times = [read[i] for i in range(size)]
    assert max(times) - min(times) <= 1


def rows_of(objective: FineTuning) -> list[list[tuple[int, ...]]]:
    """All rows in the order of training, each as its dialogs: padding is 0 at position 0."""
    rows = []
    for tensors in (micro.tensors for step in range(objective.steps) for micro in objective.batch(step)):
        for tokens, positions in zip(tensors["tokens_BT"].numpy(), tensors["positions_BT"].numpy(), strict=True):
            parts = np.split(tokens, np.flatnonzero(positions == 0)[1:])
            rows.append([tuple(part.tolist()) for part in parts if part.tolist() != [0]])
    return rows


def test_every_pass_reads_every_dialog_by_its_source(tokenizer):
    few, many = encode_examples(dialog_records(4), tokenizer, 64), encode_examples(dialog_records(30), tokenizer, 64)
    objective = FineTuning([Source(few, 2.0), Source(many, 0.5)], 64, 4, 2, 2, seed=0)
    read = Counter(dialog for row in rows_of(objective) for dialog in row)
    tokens = sum(micro.tokens for step in range(objective.steps) for micro in objective.batch(step))
    own = Counter(tuple(e.ids.tolist()) for e in few), Counter(tuple(e.ids.tolist()) for e in many)
    expected = Counter({key: 4 * n for key, n in own[0].items()}) + own[1]
    assert read == expected and tokens == sum(len(key) * n for key, n in expected.items())
    assert rows_of(objective) == rows_of(FineTuning([Source(few, 2.0), Source(many, 0.5)], 64, 4, 3, 2, seed=0))
    assert rows_of(objective) != rows_of(FineTuning([Source(few, 2.0), Source(many, 0.5)], 64, 4, 2, 2, seed=1))


def test_a_packed_batch_is_its_dialogs_alone(tokenizer):
    """Loss and gradients of packed rows equal the sums over the dialogs one by one."""
    examples = encode_examples(dialog_records(12, turns=2), tokenizer, 64)
    model = new_model(small_config(tokenizer.vocab_size, max_seq_len=192))
    objective = FineTuning([Source(examples)], 192, 99, 99, 1, seed=0)
    (micro,) = objective.batch(0)
    assert micro.tensors["tokens_BT"].shape[0] < len(examples)
    packed = objective.sums(model, micro.tensors)["loss"]
    packed.backward()
    together = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()
    alone, count = torch.zeros(()), 0
    for example in examples:
        ids, learn = torch.from_numpy(example.ids.astype(np.int64))[None], torch.from_numpy(example.learn)
        logprobs = model(ids)[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        alone = alone - logprobs[learn[1:]].sum()
        count += int(learn[1:].sum())
    alone.backward()
    assert micro.count == count
    assert packed.item() == pytest.approx(alone.item(), rel=1e-5)
    for weight, other in zip(model.parameters(), together, strict=True):
        torch.testing.assert_close(weight.grad, other, rtol=1e-5, atol=1e-5)


def test_the_first_token_of_a_dialog_is_not_learned_from_the_last_of_another(tokenizer):
    examples = encode_examples(dialog_records(3), tokenizer, 64)
    micro = packed_micro([list(examples)], 64 * 3)
    starts = micro.tensors["positions_BT"][0] == 0
    assert starts.sum() >= 3 and (micro.tensors["targets_BT"][0][:-1][starts[1:]] == -1).all()
