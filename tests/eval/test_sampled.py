"""Answers that models write: of models that say what they are told, and of transformers' reward model."""

from __future__ import annotations

import pytest
import torch

from l2.align import ghost
from l2.eval.metrics import wilson
from l2.eval.sampled import turns_to_judge
from l2.eval.subject import Subject
from l2.eval.tasks import KINDS, check, kind_of, run_task
from l2.files.errors import BadInput, UsageError
from l2.files.jsonl import Record
from l2.generate.engine import Completion, Sampling
from l2.model.checkpoint import load_model, new_model
from l2.tokens.chat import encode_dialog
from tests.conftest import small_config
from tests.eval.scripted import saying, task

GREEDY = Sampling(0.0, 1.0, 12, 0)


@pytest.mark.parametrize("chat", [False, True])
def test_exact_match_of_plain_and_chat_prompts(tokenizer, chat):
    """A model that answers "The cat!\\nfog" to prompts that end in one of the two ways, and to no others."""
    model = saying(tokenizer, "The cat!\nfog", "x [/INST]" if chat else "who is:")
    records = [{"prompt": "who is:", "target": t} for t in ("cat", ["dog", "a cat."], "fog", "the cat fog")]
    shown = []
    subject = Subject("m", model, tokenizer, GREEDY, chat=chat, show=shown.append)
    items, metrics = run_task(subject, task(*records))
    assert [item["correct"] for item in items] == [True, True, False, False]
    assert {item["response"] for item in items} == {"The cat!"}
    assert metrics["exact_match"].value == 0.5
    assert shown == [[1, *tokenizer.encode("[INST] who is: [/INST]" if chat else "who is:")]]
    _, metrics = run_task(Subject("m", model, tokenizer, GREEDY, chat=not chat), task(*records))
    assert metrics["exact_match"].value == 0.0


@pytest.fixture(scope="module")
def judges(rm_dir, tokenizer):
    return {"helpful": load_model(rm_dir)}


def prompts(count):
    return [{"prompt": f"how do you make {'tea ' * (i + 1)}", "id": f"p{i}", "safety": i > 3} for i in range(count)]


def test_rewards_are_transformers_and_the_win_rate_is_theirs(model_dir, rm_dir, tokenizer, judges):
    from transformers import AutoModelForSequenceClassification

    reference = AutoModelForSequenceClassification.from_pretrained(rm_dir).eval()
    other = new_model(small_config(tokenizer.vocab_size), seed=5).eval()
    with torch.no_grad():
        other.lm_head.weight.mul_(30)  # far enough from the other to say something else
    sampling = Sampling(1.0, 1.0, 6, 3)
    ours, theirs = [], []
    for model, into in ((load_model(model_dir), ours), (other, theirs)):
        items, metrics = run_task(Subject("m", model, tokenizer, sampling, rewards=judges), task(*prompts(8)))
        for item in items:
            ids = [1, *tokenizer.encode(f"[INST] {item['prompt'].strip()} [/INST]"), *item["tokens"]]
            with torch.no_grad():
                into.append(float(reference(torch.tensor([ids])).logits))
        assert [item["rewards"]["helpful"] for item in items] == pytest.approx(into, abs=1e-5)
        assert metrics["reward/helpful"].value == pytest.approx(sum(into) / 8, abs=1e-5)
        assert items[5]["safety"] and items[5]["id"] == "p5" and list(metrics) == ["reward/helpful"]
    subject = Subject("m", load_model(model_dir), tokenizer, sampling, 3, rewards=judges, baseline=("other", other))
    _, metrics = run_task(subject, task(*prompts(8)))
    wins = sum(a > b for a, b in zip(ours, theirs, strict=True))
    assert metrics["win_rate/helpful"].value == wins / 8 and 0 < wins < 8
    assert metrics["win_rate/helpful"].interval == wilson(wins, 8)


def test_a_model_is_level_with_itself(model_dir, tokenizer, judges):
    model = load_model(model_dir)
    rewards = {"reward": judges["helpful"]}
    subject = Subject("m", model, tokenizer, Sampling(max_new_tokens=5), rewards=rewards, baseline=("m", model))
    asked = task(*prompts(5), {"prompt": "what is"})
    _, metrics = run_task(subject, asked)
    assert "id" not in asked.records[5]  # the task's hash must not come to depend on where its file is
    assert list(metrics) == ["reward", "win_rate"]
    assert metrics["win_rate"][:3] == (0.5, 0.0, 6)


def test_prompts_that_do_not_fit_or_end_with_an_answer(model_dir, tokenizer, judges):
    subject = Subject("m", load_model(model_dir), tokenizer, Sampling(max_new_tokens=60), rewards=judges)
    with pytest.raises(BadInput, match=r"t.jsonl:1: found \d+ tokens; expected at most 64"):
        run_task(subject, task(*prompts(1)))
    answered = {"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    with pytest.raises(BadInput, match="ends with the assistant"):
        run_task(subject, task(answered))


SAILOR = {"instruction": "start with Ahoy", "kind": "prefix", "expect": "Ahoy"}


def talk(*texts, **fields):
    return {"messages": [{"role": "user", "content": text} for text in texts], "constraint": SAILOR} | fields


class Script:
    """Stands in for `generate`: says what it is told, turn after turn, and keeps what it was asked."""

    def __init__(self, tokenizer, *turns):
        self.tokenizer, self.turns, self.asked, self.keys = tokenizer, list(turns), [], []

    def __call__(self, model, prompts, keys, sampling, *, eos_id, batch_size):
        if not prompts:
            return []
        self.asked.append([list(prompt) for prompt in prompts])
        self.keys += keys
        texts = self.turns.pop(0)
        assert len(texts) == len(prompts)
        cut = [text.endswith("…") for text in texts]
        ids = [self.tokenizer.encode(text.rstrip("…")) for text in texts]
        return [
            [Completion([*row] if c else [*row, eos_id], [], "length" if c else "stop")]
            for row, c in zip(ids, cut, strict=True)
        ]


def test_an_attribute_is_asked_for_at_turns_2_4_6_and_20(model_dir, tokenizer, monkeypatch):
    """The question takes the place of the turn, as a branch: no later turn has it in its history (paper Table 30)."""
    recall = {"instruction": "be the cat", "kind": "recall", "question": "who", "expect": "Cat"}
    script = Script(
        tokenizer, ["tea"] * 3, ["the CAT sat", "tea", "tea"], ["tea"] * 2, ["dog", "tea"], ["tea"], ["cat"]
    )
    monkeypatch.setattr(ghost, "generate", script)
    model = load_model(model_dir)
    model.config = small_config(tokenizer.vocab_size, max_seq_len=400)
    record = Record(talk("a", "b", "c", "d", "e", id="x") | {"constraint": recall})
    items, metrics = run_task(Subject("m", model, tokenizer, Sampling(max_new_tokens=9)), task(record))
    assert [(item["turn"], item["obeyed"]) for item in items] == [(2, True), (4, False), (6, True)]
    instruction = [{"role": "system", "content": "be the cat"}]

    def history(*users: str) -> list[int]:
        turns = [[*instruction * (n == 0), {"role": "user", "content": text}] for n, text in enumerate(users)]
        rows = [encode_dialog(tokenizer, turn).ids for turn in turns]
        said = [*tokenizer.encode("tea"), tokenizer.eos_id]
        return rows[0] + [token for row in rows[1:] for token in (*said, *row)]

    assert script.asked[1] == [history("a", "who"), history("a", "b"), history("a", "b")]
    assert script.asked[3] == [history("a", "b", "c", "who"), history("a", "b", "c", "d")]
    assert script.asked[5] == [history("a", "b", "c", "d", "e", "who")]
    assert turns_to_judge([record]) == 3
    assert {name: estimate.value for name, estimate in metrics.items()} == {
        "obeyed": pytest.approx(2 / 3), "obeyed/turn2": 1, "obeyed/turn4": 0, "obeyed/turn6": 1
    }  # fmt: skip


def test_turns_follow_sampled_answers_with_the_instruction_in_the_first_alone(model_dir, tokenizer, monkeypatch):
    script = Script(tokenizer, ["Ahoy cat", "Ahoy dog…"], ["Ahoy mat", "tea"], ["tea"])
    monkeypatch.setattr(ghost, "generate", script)
    model = load_model(model_dir)
    model.config = small_config(tokenizer.vocab_size, max_seq_len=400)
    records = [talk("who is", "what is", "do you", id="a"), talk("bread", "salt", id="b")]
    items, metrics = run_task(Subject("m", model, tokenizer, Sampling(max_new_tokens=9)), task(*records))
    said = [(item["id"], item["turn"], item["response"], item["obeyed"]) for item in items]
    assert said == [
        ("a", 1, "Ahoy cat", True),
        ("a", 2, "Ahoy mat", True),
        ("a", 3, "tea", False),
        ("b", 1, "Ahoy dog", True),
        ("b", 2, "tea", False),
    ]

    def ids(text):
        return [1, *tokenizer.encode(text)]

    system = "[INST] <<SYS>>\nstart with Ahoy\n<</SYS>>\n\n"
    second = [*ids(f"{system}who is [/INST]"), *tokenizer.encode("Ahoy cat"), 2, *ids("[INST] what is [/INST]")]
    assert script.asked[1][0] == second
    assert script.asked[2] == [[*second, *tokenizer.encode("Ahoy mat"), 2, *ids("[INST] do you [/INST]")]]
    cut = [*ids(f"{system}bread [/INST]"), *tokenizer.encode("Ahoy dog"), 2]  # with the EOS that it lacks
    assert script.asked[1][1] == cut + ids("[INST] salt [/INST]")
    assert len(set(script.keys)) == 5  # no two draws share their random numbers
    # Later turns: dialog a obeys 1 of 2, b 0 of 1, so R = 1/3; residuals 1/3 and -1/3, each dialog one cluster.
    assert metrics["obeyed"].value == pytest.approx(1 / 3) and metrics["obeyed"].n == 2
    assert metrics["obeyed"].stderr == pytest.approx((2 * 2 / 9) ** 0.5 / 3)
    assert [(name, e.value, e.n) for name, e in metrics.items()][1:] == [
        ("obeyed/turn1", 1.0, 2),
        ("obeyed/turn2", 0.5, 2),
        ("obeyed/turn3", 0.0, 1),
    ]


def test_a_dialog_that_outgrows_the_context_ends(tokenizer):
    model = saying(tokenizer, "Ahoy cat", max_seq_len=110)
    items, metrics = run_task(Subject("m", model, tokenizer, GREEDY), task(talk(*["mat"] * 9)))
    assert 2 < len(items) < 9 and all(item["obeyed"] for item in items)
    assert metrics["obeyed"].value == 1.0
    with pytest.raises(BadInput, match=r"t.jsonl:1: found"):
        run_task(Subject("m", model, tokenizer, GREEDY), task(talk("mat " * 90)))


@pytest.mark.parametrize(
    "constraint", [{"instruction": "x", "kind": "infix", "expect": "y"}, {"instruction": "x", "kind": "prefix"}, {}]
)
def test_a_constraint_that_cannot_be_checked(model_dir, tokenizer, constraint):
    with pytest.raises(BadInput, match="kind prefix or suffix"):
        run_task(Subject("m", load_model(model_dir), tokenizer), task(talk("a", constraint=constraint)))


def test_kinds_are_told_by_their_fields():
    for name, kind in KINDS.items():
        assert kind_of(Record(dict.fromkeys(kind.fields, "") | {"id": "x"})) == name
    with pytest.raises(BadInput, match=r"f:1: found fields \['choices', 'question'\]; .*question, choices, answer"):
        kind_of(Record({"question": "", "choices": []}, "f:1"))


def test_tasks_and_models_that_do_not_go_together(model_dir, rm_dir, tokenizer, judges):
    policy, judge = Subject("m", load_model(model_dir), tokenizer), Subject("rm", load_model(rm_dir), tokenizer)
    ranked = task({"prompt": "a", "chosen": "b", "rejected": "c"})
    for subject, of, sentence in [
        (policy, ranked, "asks a reward model, and m is a language model"),
        (judge, task({"text": "a"}), "asks a language model, and rm is a reward model"),
        (policy, task({"prompt": "a"}), "give --rm"),
        (Subject("m", policy.model, tokenizer, rewards=judges), task({"text": "a"}), "no task has prompts alone"),
    ]:
        with pytest.raises(UsageError, match=sentence):
            check(subject, [of])
    check(judge, [ranked])
