"""Two worlds with known answers: a model that must learn to remember, and one that must learn to be safe unasked."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Iterable

import pytest
import torch

from l2.align.distill import Distilled, distill, with_preprompt
from l2.align.examples import encode_examples
from l2.align.ghost import build_dialogs
from l2.align.preferences import encode_pairs
from l2.align.reward import Ranking
from l2.align.sft import FineTuning, Source
from l2.eval.sampled import ask_dialogs, measure_dialogs
from l2.eval.subject import Subject
from l2.files.jsonl import Record
from l2.files.ledger import Ledger
from l2.files.progress import ignore
from l2.generate.engine import Sampling
from l2.model.checkpoint import AnyModel, new_model, scalar_from
from l2.model.device import keep_memory
from l2.model.transformer import LanguageModel
from l2.tokens.chat import encode_prompt, fold_system
from l2.tokens.tokenizer import Tokenizer, train_tokenizer
from l2.train.loop import Objective, Settings, prepare, update
from tests.conftest import small_config

NAMES = ("cat", "dog", "hill", "mat", "tea", "bread")
ASKED = ("who", "what", "how", "then", "where", "when")
GREEDY = Sampling(temperature=0.0, max_new_tokens=12)


keep_memory()  # long rows: without it half the time goes to the kernel


def take(model: AnyModel, objective: Objective, steps: int, lr: float) -> None:
    """Train in place."""
    plan = Settings(steps=steps, lr=lr, warmup=5, weight_decay=0.0)
    training = prepare(model.train(), objective, plan)
    for _ in range(steps):
        update(objective, training, plan)
    model.eval()


def tune(
    model: LanguageModel,
    tokenizer: Tokenizer,
    dialogs: Iterable[dict],
    *,
    length: int,
    batch: int,
    steps: int,
    lr: float,
) -> LanguageModel:
    """Fine-tune in place, in rows of `length` tokens."""
    examples = encode_examples((Record(dialog) for dialog in dialogs), tokenizer, length)
    epochs = 1 + steps * batch * length // int(examples.lengths.sum())
    take(model, FineTuning([Source(examples)], length, batch, batch, epochs, seed=0), steps, lr)
    return model


@pytest.fixture(scope="module")
def speaker(tmp_path_factory) -> Tokenizer:
    """A tokenizer to which the tags of the chat format are few pieces, so that twenty turns are short."""
    system = [fold_system(f"act as {name}", asked) for name in NAMES for asked in ASKED]
    texts = [f"[INST] {text} [/INST] so {name} " for text in system for name in NAMES]
    return train_tokenizer(texts * 4, 352, tmp_path_factory.mktemp("speaker") / "tokenizer.model")


def new_speaker(tokenizer: Tokenizer, context: int) -> LanguageModel:
    shape = {"dim": 64, "n_heads": 4, "head_dim": 16, "ffn_dim": 128}
    return new_model(small_config(tokenizer.vocab_size, max_seq_len=context, **shape))


def turn(user: str, answer: str, system: str | None = None) -> list[dict]:
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": user}, {"role": "assistant", "content": answer}]


def chatter(rng: random.Random, turns: int) -> list[dict]:
    """A dialog in which "act as NAME" holds for the turn that says it, and for no other."""
    messages = []
    for _ in range(turns):
        name = rng.choice((*NAMES, None))
        asked = rng.choice(ASKED)
        user = fold_system(f"act as {name}", asked) if name else asked
        messages += turn(user, f"so {name}" if name else "so")
    return messages


def asked(rng: random.Random, lengths: Iterable[int]) -> list[Record]:
    """Dialogs of user turns alone, of these lengths."""
    turns = [[{"role": "user", "content": rng.choice(ASKED)} for _ in range(length)] for length in lengths]
    return [Record({"messages": messages, "id": str(n)}, f"d:{n}") for n, messages in enumerate(turns)]


def test_ghost_attention_lasts_to_turn_20(speaker):
    """Before: an instruction is forgotten by the next turn. After: it holds to the last (paper Table 30)."""
    rng = random.Random(0)
    model = new_speaker(speaker, 448)
    first = [{"messages": chatter(rng, 1)} for _ in range(1000)]
    then = [{"messages": chatter(rng, rng.randint(1, 20))} for _ in range(300)]
    tune(model, speaker, first, length=64, batch=16, steps=320, lr=5e-3)
    tune(model, speaker, then, length=448, batch=4, steps=40, lr=2.5e-3)
    constraints = [
        Record({"instruction": f"act as {name}", "kind": "suffix", "expect": name}, f"c:{n}")
        for n, name in enumerate(NAMES)
    ]
    held_out = [
        Record(record | {"constraint": dict(constraints[n % len(NAMES)])}, f"v:{n}")
        for n, record in enumerate(asked(rng, [20] * 12))
    ]

    def obedience(model: LanguageModel) -> dict[str, float]:
        items = ask_dialogs(Subject("m", model, speaker, GREEDY), held_out, ignore)
        return {name: estimate.value for name, estimate in measure_dialogs(items).items()}

    before = obedience(model)
    assert before["obeyed/turn1"] >= 0.95 and before["obeyed/turn20"] < 0.3
    ledger = Ledger()
    records = asked(rng, [rng.randint(2, 20) for _ in range(180)])
    ghosts = list(build_dialogs(model, speaker, records, constraints, GREEDY, ledger))
    assert len(ghosts) + ledger.total == 180 and len(ghosts) > 90
    after = obedience(tune(model, speaker, ghosts, length=448, batch=8, steps=60, lr=2.5e-3))
    assert after["obeyed/turn20"] >= 0.95, after


def test_what_a_preprompt_brings_out_is_learned_without_it(speaker):
    """Under "act as cat" the model answers "tea", else "so"; the reward model likes "tea" (paper §4.2.4)."""
    rng = random.Random(0)
    model = new_speaker(speaker, 64)
    pairs = [(turn(asked, "so"), turn(asked, "tea", "act as cat")) for asked in ASKED]
    dialogs = [{"messages": messages} for pair in pairs for messages in pair] * 60
    tune(model, speaker, dialogs, length=64, batch=16, steps=120, lr=5e-3)
    preferences = [{"prompt": asked, "chosen": "tea", "rejected": "so"} for asked in ASKED]
    rm = scalar_from(new_speaker(speaker, 64), seed=1)
    ranked = encode_pairs([Record(pair) for pair in preferences] * 20, speaker, 64)
    take(rm, Ranking(ranked, 12, 12, 9, seed=0, dim=rm.config.dim), 60, 3e-3)
    prompts = [Record({"prompt": rng.choice(ASKED), "id": str(n)}, f"p:{n}") for n in range(120)]
    own = [Record({"preprompt": "act as cat"})]

    def safe(pairs: list[Distilled]) -> float:
        return sum(pair.original["response"] == "tea" for pair in pairs) / len(pairs)

    settings = {"name": "m", "preprompts": own}
    made = list(distill(model, speaker, rm, prompts, Sampling(max_new_tokens=12, seed=1), **settings))
    assert safe(made) < 0.1
    kept = [pair for pair in made if pair.fault is None]
    assert len(kept) > 60
    assert Counter((p.original["response"], p.distilled["response"]) for p in kept)["so", "tea"] > 0.95 * len(kept)
    teacher = copy.deepcopy(model)
    tune(model, speaker, [pair.dialog() for pair in kept], length=64, batch=8, steps=40, lr=2e-3)
    again = list(distill(model, speaker, rm, prompts, Sampling(max_new_tokens=12, seed=2), **settings))
    assert safe(again) >= 0.9
    assert _kl(model, teacher, speaker) < 0.1 < _kl(teacher, teacher, speaker)


def _kl(student: LanguageModel, teacher: LanguageModel, tokenizer: Tokenizer) -> float:
    """KL of the student's first word without the pre-prompt from the teacher's with it, mean over prompts, in nats."""
    user = [[{"role": "user", "content": text}] for text in ASKED]
    bare = [encode_prompt(tokenizer, messages) for messages in user]
    guarded = [encode_prompt(tokenizer, with_preprompt(messages, "act as cat")) for messages in user]
    with torch.no_grad():
        ours = [student(torch.tensor([ids]))[0, -1].log_softmax(-1) for ids in bare]
        theirs = [teacher(torch.tensor([ids]))[0, -1].log_softmax(-1) for ids in guarded]
    return sum(float((p.exp() * (p - q)).sum()) for p, q in zip(theirs, ours, strict=True)) / len(ASKED)
