"""Attention to the instruction, against transformers' own weights."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM

from l2.align.ghost import instructed
from l2.eval.attention import attention_by_turn, attention_maxima, instruction_span
from l2.eval.sampled import measure_dialogs
from l2.eval.subject import Subject
from l2.eval.tasks import Task, check, run_task
from l2.files.errors import UsageError
from l2.files.jsonl import Record
from l2.generate.engine import Completion, Sampling
from l2.model.checkpoint import load_language_model, load_reward_model, new_model
from l2.tokens.chat import encode_prompt
from tests.conftest import small_config

USERS = [{"role": "user", "content": text} for text in ("who is the cat", "make tea", "what then")]


def theirs(model_dir, ids: list[int], first: int, last: int) -> torch.Tensor:
    """The same from transformers' attention weights."""
    model = LlamaForCausalLM.from_pretrained(model_dir, attn_implementation="eager", dtype=torch.float32)
    with torch.no_grad():
        layers = model(torch.tensor([ids]), output_attentions=True).attentions
    return torch.stack([weights[0, :, :, first:last].amax(dim=(0, 2)) for weights in layers]).amax(dim=0)


def test_maxima_are_those_of_transformers(model_dir):
    model = load_language_model(model_dir)
    ids = torch.randint(3, 380, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    for first, last in ((0, 1), (3, 9), (20, 40)):
        ours = attention_maxima(model, ids, first, last)
        torch.testing.assert_close(ours, theirs(model_dir, ids, first, last), rtol=1e-4, atol=1e-6)
        assert not ours[:first].any(), "nobody looks ahead"


def test_the_span_is_the_instruction(tokenizer):
    turn = instructed(USERS, "say bread and salt", everywhere=False)[0]
    ids = encode_prompt(tokenizer, turn)
    first, last = instruction_span(tokenizer, turn)
    assert first > 0 and tokenizer.decode(ids[first:last]).strip() == "say bread and salt"


def test_by_turn_is_the_mean_over_each_answer(model_dir, tokenizer):
    turns = instructed(USERS, "say tea", everywhere=False)
    eos = tokenizer.eos_id
    answers = [
        Completion([30, 31, 32, eos], [], "stop"),
        Completion([], [], "length"),
        Completion([40, 41], [], "length"),
    ]
    ids, spans = [], []
    for turn, answer in zip(turns, answers, strict=True):
        ids += encode_prompt(tokenizer, turn)
        spans.append((len(ids), len(ids) + len(answer.tokens)))
        ids += answer.tokens + [eos] * (answer.finish != "stop")
    expected = theirs(model_dir, ids, *instruction_span(tokenizer, turns[0]))
    found = attention_by_turn(load_language_model(model_dir), tokenizer, turns, answers)
    means = [float(expected[first:last].mean()) if last > first else 0.0 for first, last in spans]
    assert found == pytest.approx(means, rel=1e-4)


def test_evaluate_measures_it_where_asked(rm_dir, tokenizer):
    constraint = {"instruction": "say tea", "kind": "prefix", "expect": "tea"}
    records = [Record({"id": f"d{i}", "messages": USERS[:2], "constraint": constraint}, f"f:{i}") for i in range(3)]
    model, sampling = new_model(small_config(tokenizer.vocab_size, max_seq_len=256)).eval(), Sampling(1.0, 1.0, 4, 0)
    task = Task("ghost", "instructions", records)
    _, plain = run_task(Subject("m", model, tokenizer, sampling), task)
    items, metrics = run_task(Subject("m", model, tokenizer, sampling, attention=True), task)
    assert metrics.keys() - plain.keys() == {"attention/turn1", "attention/turn2"}
    mean = sum(item["attention"] for item in items if item["turn"] == 2) / 3
    assert metrics["attention/turn2"].value == pytest.approx(mean) and 0 < mean < 1
    assert measure_dialogs(items) == metrics
    with pytest.raises(UsageError, match="no task has a constraint"):
        check(Subject("m", model, tokenizer, sampling, attention=True), [Task("t", "exact match", [])])
    with pytest.raises(UsageError, match="--attention looks into a language model"):
        reward = Subject("m", load_reward_model(rm_dir), tokenizer, attention=True)
        check(reward, [Task("t", "preferences", [])])
