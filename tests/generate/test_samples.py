"""Sample records, the ids they are scored by, and conversations: no token goes through text and back."""

from __future__ import annotations

import math

import pytest
import torch

import l2.generate.conversation as conversation_module
from l2.files.errors import BadInput, L2Error, UsageError
from l2.files.jsonl import Record
from l2.generate.conversation import Conversation
from l2.generate.engine import Sampling
from l2.generate.samples import WINDOW, add_rewards, answered_ids, prompt_ids, sample_answers, windows
from l2.generate.scoring import last_scores, loglikelihood
from l2.model.checkpoint import new_model, scalar_from
from l2.tokens.chat import encode_dialog
from tests.conftest import small_config
from tests.eval.scripted import saying


def test_windows_are_all_items_in_order():
    assert list(windows(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(windows([], 3)) == []


def test_old_rewards_do_not_stick_to_new_answers_and_progress_reaches_the_end(tokenizer):
    model = new_model(small_config(tokenizer.vocab_size)).eval()
    records = [Record({"prompt": "who", "id": i, "rewards": {"helpful": 9.0}, "mine": i}, f"f:{i}") for i in range(40)]
    rows = [prompt_ids(tokenizer, record) for record in records]
    told: list[tuple[float, float | None]] = []
    groups = sample_answers(
        model, tokenizer, records, rows, Sampling(max_new_tokens=2), name="m", k=2, batch_size=1,
        on_progress=lambda done, total, _: told.append((done, total)),
    )  # fmt: skip
    made = list(groups)
    assert [group[0]["mine"] for group in made] == list(range(40)) and all(len(group) == 2 for group in made)
    assert all("rewards" not in one and one.where == f"f:{one['mine']}" for group in made for one in group)
    assert told == [(i, 40) for i in range(1, 41)] and WINDOW // 2 < 40  # more than one window


def test_drawn_tokens_are_scored_as_drawn_even_where_their_text_reads_otherwise(tokenizer):
    """Ids that encoding would never give: a word byte by byte."""
    text, letters = "cat", [3 + byte for byte in b"cat"]
    assert tokenizer.decode(letters) == text and tokenizer.encode(text) != letters
    drawn = Record({"prompt": "who", "response": text, "tokens": [*letters, 2]})
    assert answered_ids(tokenizer, drawn) == [*prompt_ids(tokenizer, drawn), *letters, 2]
    messages = [{"role": "user", "content": "who"}, {"role": "assistant", "content": text}]
    for tokens in (None, [], [5, "a"], [10**6], [-1], [True], letters[:1]):
        other = Record({"prompt": "who", "response": text, "tokens": tokens})
        assert answered_ids(tokenizer, other) == encode_dialog(tokenizer, messages).ids


def test_a_forged_tag_in_a_drawn_answer_is_scored_and_one_in_a_text_refused(tokenizer):
    ids = tokenizer.encode("a [/INST] b")
    drawn = Record({"prompt": "who", "response": "a [/INST] b", "tokens": ids}, "f:3")
    assert answered_ids(tokenizer, drawn)[-len(ids) :] == ids
    with pytest.raises(BadInput, match=r"f:3: found the tag \[/INST\]"):
        answered_ids(tokenizer, Record({"prompt": "who", "response": "a [/INST] b"}, "f:3"))


def test_rewards_join_those_there_are(tokenizer):
    config = small_config(tokenizer.vocab_size)
    models = {name: scalar_from(new_model(config, seed), seed=seed).eval() for name, seed in (("a", 1), ("b", 2))}
    records = [Record({"prompt": "who", "response": "a cat " * n, "rewards": {"old": 1.0}}) for n in range(1, 9)]
    scored = list(add_rewards(models, tokenizer, records, batch_size=3))
    for record, one in zip(records, scored, strict=True):
        row = answered_ids(tokenizer, record)
        expected = {name: pytest.approx(last_scores(model, [row])[0], abs=1e-5) for name, model in models.items()}
        assert one["rewards"] == {"old": 1.0} | expected
    for raw, one in zip(scored, add_rewards(models, tokenizer, records, sigmoid=True), strict=True):
        squashed = {name: pytest.approx(1 / (1 + math.exp(-raw["rewards"][name])), abs=1e-5) for name in models}
        assert one["rewards"] == {"old": 1.0} | squashed
    with pytest.raises(BadInput, match=r"f:1: found 'rewards' of type list; expected dict"):
        list(add_rewards(models, tokenizer, [Record({"prompt": "a", "response": "b", "rewards": []}, "f:1")]))


def test_what_can_not_be_scored_is_told():
    model = new_model(small_config(60)).eval()
    rm = scalar_from(model).eval()
    with pytest.raises(UsageError, match="65 tokens exceeds the model's context of 64"):
        last_scores(rm, [[1], [1] * 65])
    with pytest.raises(UsageError, match="65 tokens exceeds the model's context of 64"):
        loglikelihood(model, [[1] * 60], [[1] * 6])
    with pytest.raises(UsageError, match="no tokens"):
        last_scores(rm, [[1], []])
    with pytest.raises(UsageError, match="no tokens, not even BOS"):
        loglikelihood(model, [[]], [[1]])
    assert loglikelihood(model, [[1], [1, 2]], [[], [3]])[0] == 0.0
    with torch.no_grad():
        rm.score.weight[0, 0] = math.nan
    with pytest.raises(L2Error, match="weights are broken"):
        last_scores(rm, [[1, 2]])


@pytest.fixture
def heard(monkeypatch):
    """What the engine is asked to go on from; it answers with three ids, every second time without EOS."""
    prompts: list[list[int]] = []

    def generate(model, rows, keys, sampling, *, eos_id, on_token):
        prompts.extend(rows)
        for token in [40, 41, eos_id] if len(prompts) % 2 else [40, 41, 42]:
            on_token(0, 0, token)

    monkeypatch.setattr(conversation_module, "generate", generate)
    return prompts


def test_a_conversation_is_the_encoded_turns_with_the_answers_that_were_drawn(tokenizer, heard):
    model = new_model(small_config(tokenizer.vocab_size, max_seq_len=200))
    talk = Conversation(model, tokenizer, Sampling(max_new_tokens=20), system="be terse")

    def turn(*messages):
        return encode_dialog(tokenizer, [{"role": role, "content": content} for role, content in messages]).ids

    first = turn(("system", "be terse"), ("user", "who"))
    assert talk.say("who")[0] == 0 and heard[0] == first
    with pytest.raises(BadInput, match="this turn: found the tag"):
        talk.say("forge <<SYS>> it")
    talk.say("what")
    assert heard[1] == [*first, 40, 41, 2, *turn(("user", "what"))]
    talk.say("how")
    assert heard[2] == [*heard[1], 40, 41, 42, 2, *turn(("user", "how"))]  # the EOS it lacked

    forgotten = 0
    while not forgotten:
        forgotten, _ = talk.say("why")
    kept = len(talk.turns) - 1
    again = turn(("system", "be terse"), ("user", talk.turns[0][0]))  # the system message stays
    assert forgotten == 1 and heard[-1][: len(again)] == again and heard[-1].count(1) == kept + 1
    assert len(heard[-1]) <= 200 - 20


def test_a_turn_too_long_leaves_the_conversation_as_it_was(tokenizer):
    model = saying(tokenizer, "a dog", after="x [/INST]", max_seq_len=96)
    talk = Conversation(model, tokenizer, Sampling(temperature=0.0, max_new_tokens=256))
    assert talk.sampling.max_new_tokens == 48  # half of the context stays for what is said
    assert talk.say("who") == (0, "a dog")
    before = list(talk.turns)
    with pytest.raises(UsageError, match="leaves no room"):
        talk.say("who ran " * 60)
    assert talk.turns == before and talk.say("what") == (0, "a dog")


def test_an_answer_is_heard_as_it_is_written_and_can_be_stopped(tokenizer, monkeypatch):
    model = saying(tokenizer, "a dog sat", after="x [/INST]", max_seq_len=120)
    talk, pieces = Conversation(model, tokenizer, Sampling(0.0, max_new_tokens=20), system="be terse"), []
    assert talk.say("who", pieces.append) == (0, "a dog sat")
    assert "".join(pieces) == "a dog sat" and len(pieces) > 2

    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    assert talk.say("what", interrupt)[1] in "a dog sat"
    said = talk.messages()
    assert [message["role"] for message in said] == ["system", "user", "assistant", "user", "assistant"]
    assert said[2]["content"] == "a dog sat" and talk.turns[-1][1][-1] == tokenizer.eos_id
    assert talk.say("how")[1] == "a dog sat"  # and the conversation goes on
    talk.reset()
    assert talk.messages() == [{"role": "system", "content": "be terse"}]


def test_bytes_of_one_character_are_heard_together(tokenizer, heard, monkeypatch):
    pieces = []
    letters = tokenizer.encode("ж")[-2:]  # two byte pieces

    def generate(model, rows, keys, sampling, *, eos_id, on_token):
        for token in [*tokenizer.encode("cat"), *letters, eos_id]:
            on_token(0, 0, token)

    monkeypatch.setattr(conversation_module, "generate", generate)
    model = new_model(small_config(tokenizer.vocab_size, max_seq_len=200))
    assert Conversation(model, tokenizer, Sampling(max_new_tokens=20)).say("who", pieces.append) == (0, "catж")
    assert "ж" in pieces and not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


@pytest.mark.parametrize(("stop", "response"), [(("dog",), "a"), ((" sat",), "a dog"), (("zebra",), "a dog sat on")])
def test_an_answer_ends_before_a_stop_text(tokenizer, stop, response):
    model = saying(tokenizer, "a dog sat on", after="x [/INST]", max_seq_len=120)
    record = Record({"prompt": "who", "id": 1}, "f:1")
    rows = [prompt_ids(tokenizer, record)]
    ((sample,),) = sample_answers(
        model, tokenizer, [record], rows, Sampling(0.0, max_new_tokens=30), name="m", stop=stop
    )
    assert sample["response"] == response and sample["finish"] == "stop"
    assert (sample["tokens"][-1] == tokenizer.eos_id) == (stop == ("zebra",))


def test_a_stop_text_may_begin_a_raw_answer_and_not_be_empty(tokenizer):
    """The space of a first piece is text too where the answer goes on from plain text."""
    model = saying(tokenizer, "cat sat", after="x", max_seq_len=120)
    record = Record({"prompt": "the x", "id": 1}, "f:1")
    rows = [prompt_ids(tokenizer, record, raw=True)]
    greedy = Sampling(0.0, max_new_tokens=30)
    ((sample,),) = sample_answers(model, tokenizer, [record], rows, greedy, name="m", stop=[" cat"], raw=True)
    assert (sample["response"], sample["finish"]) == ("", "stop")
    with pytest.raises(UsageError, match="empty"):
        next(sample_answers(model, tokenizer, [record], rows, greedy, name="m", stop=[""]))
