"""Ghost Attention: dialogs that teach a model to obey its first instruction to the last turn (paper §3.3, A.3.5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from l2.files.errors import BadInput
from l2.files.jsonl import Record
from l2.files.ledger import Ledger
from l2.files.progress import OnProgress, ignore
from l2.generate.engine import Completion, Sampler, Sampling, generate, prompt_key
from l2.tokens.chat import TAGS, Message, check_messages, encode_prompt
from l2.tokens.tokenizer import Tokenizer

Loss = Literal["last", "all-sampled"]
Turn = Sequence[Message]  # a user message, or a system message and the user message it is folded into


def user_turns(record: Record) -> list[dict[str, Any]]:
    """The user messages of a dialog record; the assistant's, if there are any, are passed over.

    Raises BadInput for a dialog without one, with a system message of its own, or with a forged tag.
    """
    users = []
    for message in record.need("messages", list):
        role = message.get("role") if isinstance(message, dict) else None
        if role == "system":
            raise BadInput(record.where, "a system message", "turns without one: the instruction takes its place")
        if role != "assistant":
            users += check_messages([message], record.where)
    if not users:
        raise BadInput(record.where, "no user message", "at least one turn")
    return users


def check_instructions(constraints: Sequence[Record]) -> None:
    """Raises BadInput for a constraint whose `instruction`, or `short` if it has one, is no text or forges a tag."""
    for constraint in constraints:
        for field in {"instruction", "short"} & constraint.keys() | {"instruction"}:
            check_messages([{"role": "user", "content": constraint.need(field)}], constraint.where)


def pick_instruction(constraints: Sequence[Record], seed: int, identity: str) -> tuple[dict[str, Any], str]:
    """A constraint and its wording for a dialog, as a function of (seed, id): half the time the `short` one.

    Of constraints with a `category` one each of some categories is drawn (as many as not, but one at least), and they
    are said one after another: the paper's random combination. Their parts stand in `parts`.
    """
    categories = sorted({str(constraint.get("category") or "") for constraint in constraints})
    number = prompt_key(f"instruction {seed} {identity}")
    chosen = 1 + (number >> 32) % (2 ** len(categories) - 1)  # a bit for each category, one at least
    parts = []
    for place, category in enumerate(categories):
        if chosen >> place & 1:
            fitting = [one for one in constraints if str(one.get("category") or "") == category]
            key = prompt_key(f"instruction {seed} {identity} {category}") if category else number
            parts.append(fitting[key % len(fitting)])
    terse = number >> 63 and all("short" in part for part in parts)
    wording = " ".join(part["short" if terse else "instruction"] for part in parts)
    if len(parts) == 1:
        return dict(parts[0]), wording
    whole = " ".join(part["instruction"] for part in parts)
    return {"instruction": whole, "parts": [dict(part) for part in parts]}, wording


def instructed(users: Sequence[Message], wording: str, *, everywhere: bool) -> list[Turn]:
    """Turns with the instruction as a system message: in each of them (to sample), or in the first alone."""
    system = {"role": "system", "content": wording}
    return [[system, user] if everywhere or number == 0 else [user] for number, user in enumerate(users)]


def ask_turns(
    model: Sampler,
    tokenizer: Tokenizer,
    dialogs: Sequence[Sequence[Turn]],
    identities: Sequence[str],
    sampling: Sampling,
    *,
    batch_size: int = 64,
    on_progress: OnProgress = ignore,
) -> list[list[Completion]]:
    """The model's answers to each turn of each dialog, after the answers that it gave before.

    Turn by turn, all dialogs together; the ids drawn are the ids of the history, which get the EOS they lack when
    an answer was cut off. What is drawn depends on (seed, identity, turn) and the history alone. A dialog whose
    next answer would not fit the model's context ends: it has fewer answers than turns.
    """
    room = model.config.max_seq_len - sampling.max_new_tokens
    histories: list[list[int]] = [[] for _ in dialogs]
    answers: list[list[Completion]] = [[] for _ in dialogs]
    longest = max(map(len, dialogs), default=0)
    for number in range(longest):
        asked = []
        for i, turns in enumerate(dialogs):
            if number < len(turns) and len(answers[i]) == number:
                histories[i] += encode_prompt(tokenizer, turns[number])
                if len(histories[i]) <= room:
                    asked.append(i)
        prompts = [histories[i] for i in asked]
        keys = [prompt_key(f"{identities[i]} turn {number + 1}") for i in asked]
        drawn = generate(model, prompts, keys, sampling, eos_id=tokenizer.eos_id, batch_size=batch_size)
        for i, (answer,) in zip(asked, drawn, strict=True):
            answers[i].append(answer)
            histories[i] += answer.tokens if answer.finish == "stop" else [*answer.tokens, tokenizer.eos_id]
        on_progress(number + 1, longest, "")
    return answers


def _unfit(
    answers: Sequence[Completion], texts: Sequence[str], turns: int, constraint: Mapping[str, Any] | None, loss: Loss
) -> tuple[str, int] | None:
    """Why a dialog can't be learned from, and the turn at which it went wrong, counted from 1.

    Answers that are learned must obey `constraint`, unless it is None or can't be checked.
    """
    for turn, (answer, text) in enumerate(zip(answers, texts, strict=True), 1):
        if answer.finish != "stop":
            return "unfinished", turn
        if not text:
            return "empty", turn
        if any(tag in text for tag in TAGS):
            return "tag", turn
        learned = loss == "all-sampled" or turn == turns
        if learned and not all(obeys(part, text) for part in shows_everywhere(constraint)):
            return "disobeyed", turn
    return None if len(answers) == turns else ("context", len(answers) + 1)


def build_dialogs(
    model: Sampler,
    tokenizer: Tokenizer,
    records: Sequence[Record],
    constraints: Sequence[Record],
    sampling: Sampling,
    ledger: Ledger,
    *,
    loss: Loss = "last",
    check: bool = True,
    batch_size: int = 64,
    on_progress: OnProgress = ignore,
) -> Iterator[dict[str, Any]]:
    """Dialogs for fine-tuning: sampled with an instruction in every user turn, given back with it in the first alone.

    All answers are sampled (the paper leaves open whether all or the last). loss: "last" has weight 0 on every
    answer but the last, as in the paper; "all-sampled" learns all of them (ours). A dialog with an answer that is
    cut off, empty, holds a chat tag or no longer fits the context is rejected into `ledger`, with the turn as value;
    and so is, with `check`, one with an answer to learn that disobeys, where the constraint says how to tell (ours:
    the paper calls the process analogous to rejection sampling, but does not say what is rejected).
    """
    check_instructions(constraints)
    dialogs = [user_turns(record) for record in records]
    names = [record.identity for record in records]
    picked = [pick_instruction(constraints, sampling.seed, name) for name in names]
    turns = [instructed(users, wording, everywhere=True) for users, (_, wording) in zip(dialogs, picked, strict=True)]
    drawn = ask_turns(model, tokenizer, turns, names, sampling, batch_size=batch_size, on_progress=on_progress)
    for record, name, users, (constraint, wording), answers in zip(records, names, dialogs, picked, drawn, strict=True):
        texts = [tokenizer.decode(answer.tokens).strip() for answer in answers]
        if why := _unfit(answers, texts, len(users), constraint if check else None, loss):
            ledger.reject(record | {"id": name}, *why, line=record.line)
            continue
        messages: list[dict[str, Any]] = []
        for turn, text in zip(instructed(users, wording, everywhere=False), texts, strict=True):
            messages += [*map(dict, turn), {"role": "assistant", "content": text}]
        if loss == "last":
            messages[:-1] = [m | {"weight": 0} if m["role"] == "assistant" else m for m in messages[:-1]]
        yield {**record, "id": name, "messages": messages, "constraint": dict(constraint)}


def shows_everywhere(constraint: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The parts of a constraint that every answer must show, and that `obeys` can check."""
    parts = (constraint or {}).get("parts", [constraint] if constraint else [])
    return [part for part in parts if part.get("kind") in ("prefix", "suffix") and _expects(part)]


def _expects(constraint: Mapping[str, Any]) -> bool:
    expect = constraint.get("expect")
    return isinstance(expect, str) and bool(expect)


def check_constraint(record: Record) -> dict[str, Any]:
    """The record's constraint. Raises BadInput for one that `obeys` can't check."""
    constraint: dict[str, Any] = record.need("constraint", dict)
    needed = ["instruction", "expect"] + ["question"] * (constraint.get("kind") == "recall")
    texts = all(isinstance(constraint.get(field), str) and constraint[field] for field in needed)
    if constraint.get("kind") not in ("prefix", "suffix", "recall") or not texts:
        expected = "{instruction, kind, expect}, kind prefix or suffix; or recall, with the question that asks for it"
        raise BadInput(record.where, f"a constraint {constraint!r:.80}", expected)
    return constraint


def obeys(constraint: Mapping[str, Any], answer: str) -> bool:
    """Whether the answer begins (kind "prefix") or ends ("suffix") with `expect`, or has it anywhere ("recall").

    Spaces around the answer do not count, nor does case for recall.
    """
    answer, expect = answer.strip(), str(constraint["expect"])
    if constraint["kind"] == "recall":
        return expect.casefold() in answer.casefold()
    return (answer.startswith if constraint["kind"] == "prefix" else answer.endswith)(expect)
