"""Given text, scored: against transformers, one text at a time, and models whose numbers are known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from l2.eval.scored import answer_index, encode_continuation, windows
from l2.eval.subject import Subject
from l2.eval.tasks import run_task
from l2.files.errors import BadInput, L2Error
from l2.files.jsonl import Record
from l2.model.checkpoint import load_model
from tests.conftest import sentences
from tests.eval.scripted import bigram, task


@pytest.fixture(scope="module")
def reference(model_dir):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_dir).eval()

    def last_logprob(context, token):
        """log p of one token after a context: no batch, no padding, no cache."""
        with torch.no_grad():
            return float(model(torch.tensor([context])).logits[0, -1].log_softmax(-1)[token])

    return last_logprob


@pytest.fixture(scope="module")
def subject(model_dir, tokenizer):
    return Subject("m", load_model(model_dir), tokenizer, batch_size=3)


@given(st.integers(2, 200), st.integers(2, 33))
def test_windows_continue_to_every_id_once(count, length):
    ids = list(range(count))
    pieces = list(windows(ids, length))
    assert [i for _, more in pieces for i in more] == ids[1:]
    for number, (context, more) in enumerate(pieces):
        assert context + more == list(range(context[0], context[0] + len(context + more)))
        assert len(context + more) <= length and len(context) >= (1 if number == 0 else length // 2)


def test_bits_per_byte_is_transformers(subject, tokenizer, reference):
    texts = ["the cat.", "", "é " + " ".join(sentences(20)), "mat hill"]
    length, bits = 64, []
    for text in texts:
        ids = [1, *tokenizer.encode(text), 2]
        starts = [0 if p < length else (p - length) // 32 * 32 + 32 for p in range(len(ids))]
        bits.append(-sum(reference(ids[s:p], ids[p]) for p, s in enumerate(starts) if p) / math.log(2))
    assert len(ids) < 64 < len(tokenizer.encode(texts[2]))
    items, metrics = run_task(subject, task(*({"text": text} for text in texts)))
    assert [item["bits"] for item in items] == pytest.approx(bits, rel=1e-5)
    assert [item["bytes"] for item in items] == [8, 0, 1 + len(texts[2]), 8]
    assert metrics["bits_per_byte"].value == pytest.approx(sum(bits) / sum(len(t.encode()) for t in texts), rel=1e-5)


def test_bits_per_byte_of_a_uniform_model(tokenizer):
    """Every token costs log2(vocabulary) bits, EOS too, in any window."""
    model = bigram(torch.zeros(tokenizer.vocab_size, tokenizer.vocab_size), max_seq_len=9)
    text = " ".join(sentences(9))
    _, metrics = run_task(Subject("m", model, tokenizer), task({"text": text}))
    tokens = len(tokenizer.encode(text)) + 1
    assert metrics["bits_per_byte"].value == pytest.approx(tokens * math.log2(tokenizer.vocab_size) / len(text))
    assert metrics["bits_per_byte"].stderr is None


def test_no_text_at_all(subject):
    with pytest.raises(BadInput, match="no text in any document"):
        run_task(subject, task({"text": ""}))


def test_choices_are_transformers(subject, tokenizer, reference):
    lines = sentences(60)
    records = [
        {"question": lines[i], "choices": [lines[i + 1][: 4 + i], lines[i + 2], lines[i + 3][:9]], "answer": i % 3}
        for i in range(0, 40, 4)
    ]
    items, metrics = run_task(subject, task(*records))
    right = 0
    for record, item in zip(records, items, strict=True):
        totals = []
        for choice in record["choices"]:
            prompt = tokenizer.encode(f"Question: {record['question']}\nAnswer:")
            ids = [1, *tokenizer.encode(f"Question: {record['question']}\nAnswer: {choice}")]
            totals.append(sum(reference(ids[:p], ids[p]) for p in range(len(prompt) + 1, len(ids))))
        assert item["loglikelihoods"] == pytest.approx(totals, rel=1e-5)
        rates = [total / len(choice) for total, choice in zip(totals, record["choices"], strict=True)]
        right += rates.index(max(rates)) == record["answer"]
    p = right / len(records)
    assert metrics["accuracy"].value == p and 0 < p < 1
    assert metrics["accuracy"].stderr == pytest.approx(math.sqrt(p * (1 - p) / 9))


@pytest.mark.parametrize(
    ("answer", "index"),
    [(2, 2), ("C", 2), ("red", 0), ("B", 1), ("A", 3)],
    ids=["index", "letter", "text", "B", "text A"],
)
def test_answers_by_index_letter_or_text(answer, index):
    assert answer_index(Record({"choices": ["red", "blue", "green", "A"], "answer": answer})) == index


@pytest.mark.parametrize(
    ("choices", "answer"), [(["a", "b"], 2), (["a", "b"], -1), (["a", "b"], "C"), (["a", "b"], "x y"),
                            (["a", "b"], True), (["a"], 0), (["a", ""], 0), (["a", 1], 0)]
)  # fmt: skip
def test_bad_answers_and_choices(choices, answer):
    with pytest.raises(BadInput, match=r"f:3: found"):
        answer_index(Record({"choices": choices, "answer": answer}, "f:3"))


@given(
    st.text(st.sampled_from("the cat\n é:"), max_size=12), st.text(st.sampled_from("the cat é"), min_size=1, max_size=9)
)
def test_a_continuation_is_encoded_with_its_context(tokenizer, context, continuation):
    first, more = encode_continuation(tokenizer, context, continuation)
    assert first + more == [1, *tokenizer.encode(context + continuation)]
    alone = [1, *tokenizer.encode(context)]
    assert alone[: len(first)] == first and (alone == first or more[0] != alone[len(first)])


def test_too_long_a_question(subject):
    with pytest.raises(BadInput, match=r"t.jsonl:1: found \d+ tokens; expected at most 64"):
        run_task(subject, task({"question": " ".join(sentences(9)), "choices": ["a", "b"], "answer": 0}))


def test_broken_weights_stop(model_dir, tokenizer):
    broken = load_model(model_dir)
    with torch.no_grad():
        broken.lm_head.weight[5, 5] = math.nan
    for record in ({"text": "the cat"}, {"question": "the", "choices": ["cat", "dog"], "answer": 0}):
        with pytest.raises(L2Error, match="gives nan"):
            run_task(Subject("m", broken, tokenizer), task(record))
