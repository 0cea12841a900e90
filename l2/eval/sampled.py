"""Tasks whose answers the model writes: exact match, prompts judged by reward models, instructions over many turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from l2.align.ghost import ask_turns, check_constraint, instructed, obeys, user_turns
from l2.align.temporal import answer_on, asked_on, event_date, shifted, tells
from l2.eval.attention import attention_by_turn
from l2.eval.metrics import Estimate, exact_match, mean, ratio, win_rate
from l2.eval.subject import Item, Subject, fit
from l2.files.jsonl import Record
from l2.files.progress import OnProgress
from l2.generate.engine import Sampler, generate, prompt_key
from l2.generate.samples import Sample, prompt_ids, sample_answers
from l2.generate.scoring import last_scores
from l2.tokens.chat import encode_prompt


def prompt_rows(subject: Subject, records: Sequence[Record], *, chat: bool) -> list[list[int]]:
    """Ids of the prompts, as dialogs or as plain text after BOS. Raises BadInput for one too long to answer."""
    rows = [prompt_ids(subject.tokenizer, record, raw=not chat) for record in records]
    for record, row in zip(records, rows, strict=True):
        fit(record, len(row) + subject.sampling.max_new_tokens, subject.policy.config.max_seq_len)
    subject.show(rows[0])
    return rows


def answer_exactly(subject: Subject, records: Sequence[Record], on_progress: OnProgress) -> list[Item]:
    """Greedy answers, cut at their first newline, against `target`: a text, or a list of which any will do."""
    targets = [record.need("target", (str, list)) for record in records]
    rows = prompt_rows(subject, records, chat=subject.chat)
    greedy = replace(subject.sampling, temperature=0.0)
    keys = [prompt_key(record.identity) for record in records]
    eos_id, size = subject.tokenizer.eos_id, subject.batch_size
    answers = generate(subject.policy, rows, keys, greedy, eos_id=eos_id, batch_size=size, on_progress=on_progress)
    items = []
    for record, target, (answer,) in zip(records, targets, answers, strict=True):
        response = subject.tokenizer.decode(answer.tokens).partition("\n")[0].strip()
        correct = exact_match(response, [target] if isinstance(target, str) else target)
        items.append({"id": record.identity, "response": response, "target": target, "correct": correct})
    return items


def measure_exact(items: Sequence[Item]) -> dict[str, Estimate]:
    """Share of answers that match."""
    return {"exact_match": mean([item["correct"] for item in items])}


def _judged(
    subject: Subject,
    named: tuple[str, Sampler],
    records: Sequence[Record],
    rows: Sequence[list[int]],
    on_progress: OnProgress,
) -> list[Sample]:
    """One sample for each prompt, with the reward models' raw scores at its last token."""
    settings: dict[str, Any] = {"name": named[0], "batch_size": subject.batch_size, "on_progress": on_progress}
    groups = sample_answers(named[1], subject.tokenizer, records, rows, subject.sampling, **settings)
    samples = [sample for (sample,) in groups]
    whole = [row + sample["tokens"] for row, sample in zip(rows, samples, strict=True)]
    scores = {name: last_scores(rm, whole, subject.batch_size) for name, rm in subject.rewards.items()}
    return [
        sample | {"rewards": {name: values[i] for name, values in scores.items()}} for i, sample in enumerate(samples)
    ]


def judge_prompts(subject: Subject, records: Sequence[Record], on_progress: OnProgress) -> list[Item]:
    """A sample record for each prompt, with its rewards and, under `baseline`, that of the model to beat.

    Both models draw with the same random numbers: a model is level with itself on every prompt.
    """
    records = [Record({"id": record.where} | record, record.where) for record in records]
    rows = prompt_rows(subject, records, chat=True)
    ours = _judged(subject, (subject.name, subject.policy), records, rows, on_progress)
    if subject.baseline is None:
        return [item | {"baseline": None} for item in ours]
    theirs = _judged(subject, subject.baseline, records, rows, on_progress)
    fields = ("model", "response", "finish", "rewards")
    return [a | {"baseline": {field: b[field] for field in fields}} for a, b in zip(ours, theirs, strict=True)]


def measure_prompts(items: Sequence[Item]) -> dict[str, Estimate]:
    """Mean reward by each judge and, against a baseline, the win rate; a judge without a name goes unnamed."""
    metrics = {}
    for judge in items[0]["rewards"]:
        suffix = "" if judge == "reward" else f"/{judge}"
        ours = [item["rewards"][judge] for item in items]
        metrics[f"reward{suffix}"] = mean(ours)
        if items[0]["baseline"] is not None:
            metrics[f"win_rate{suffix}"] = win_rate(ours, [item["baseline"]["rewards"][judge] for item in items])
    return metrics


RECALL_AT = (2, 4, 6, 20)  # turns at which the paper asks (Table 30)


def _conversations(users: Sequence[Item], constraint: Mapping[str, Any]) -> list[tuple[list[Item], int]]:
    """What is asked in turn, and the first turn whose answer is judged; all later ones are, too.

    A constraint that shows in every answer is judged at every turn. One to be recalled is asked for, by its question
    in the place of the user's words, at each turn of RECALL_AT that the dialog has or would come to next.
    """
    if constraint["kind"] != "recall":
        return [(list(users), 1)]
    question = {"role": "user", "content": constraint["question"]}
    return [([*users[: turn - 1], question], turn) for turn in RECALL_AT if turn <= len(users) + 1]


def ask_dialogs(subject: Subject, records: Sequence[Record], on_progress: OnProgress) -> list[Item]:
    """An item for each turn that is judged: does the answer obey the instruction, given in the first turn alone?

    See `_conversations`. A dialog that outgrows the model's context ends early (Table 30 stays within it).
    """
    asked = [
        (record, constraint, users, first)
        for record in records
        for constraint in [check_constraint(record)]
        for users, first in _conversations(user_turns(record), constraint)
    ]
    dialogs = [instructed(users, constraint["instruction"], everywhere=False) for _, constraint, users, _ in asked]
    openings = [encode_prompt(subject.tokenizer, turns[0]) for turns in dialogs]
    for (record, *_), opening in zip(asked, openings, strict=True):
        fit(record, len(opening) + subject.sampling.max_new_tokens, subject.policy.config.max_seq_len)
    subject.show(openings[0])
    names = [record.identity for record, *_ in asked]
    settings: dict[str, Any] = {"batch_size": subject.batch_size, "on_progress": on_progress}
    answers = ask_turns(subject.policy, subject.tokenizer, dialogs, names, subject.sampling, **settings)
    items = []
    for name, (_, constraint, _, first), turns, given in zip(names, asked, dialogs, answers, strict=True):
        shares = attention_by_turn(subject.language_model, subject.tokenizer, turns, given) if subject.attention else []
        for turn, answer in enumerate(given, 1):
            if turn >= first:
                text = subject.tokenizer.decode(answer.tokens).strip()
                item = {"id": name, "turn": turn, "response": text, "finish": answer.finish}
                item |= {"obeyed": obeys(constraint, text)} | ({"attention": shares[turn - 1]} if shares else {})
                items.append(item)
    return items


def turns_to_judge(records: Sequence[Record]) -> int:
    """How many answers `ask_dialogs` judges where no dialog outgrows the context."""
    asked = (_conversations(user_turns(record), check_constraint(record)) for record in records)
    return sum(len(users) + 1 - first for conversations in asked for users, first in conversations)


def measure_dialogs(items: Sequence[Item]) -> dict[str, Estimate]:
    """Share of answers that obey: from turn 2 on, with dialogs as clusters, and at each turn (paper Table 30).

    Where items have it, also the attention to the instruction at each turn (Figure 10, see l2/eval/attention.py).
    """
    turns: dict[int, list[bool]] = {}
    looks: dict[int, list[float]] = {}
    later: dict[str, list[bool]] = {}
    for item in items:
        turns.setdefault(item["turn"], []).append(item["obeyed"])
        if "attention" in item:
            looks.setdefault(item["turn"], []).append(item["attention"])
        if item["turn"] > 1:
            later.setdefault(item["id"], []).append(item["obeyed"])
    metrics = {"obeyed": ratio([sum(d) for d in later.values()], [len(d) for d in later.values()])} if later else {}
    metrics |= {f"obeyed/turn{turn}": mean(turns[turn]) for turn in sorted(turns)}
    return metrics | {f"attention/turn{turn}": mean(looks[turn]) for turn in sorted(looks)}


A_YEAR = 365  # days from the event to the dates that are stated (ours)


def ask_dates(subject: Subject, records: Sequence[Record], on_progress: OnProgress) -> list[Item]:
    """Each fact asked a year after its event and a year before: is its answer given, as it is on the stated day?"""
    asked = [
        (record, side, shifted(event_date(record), days))
        for record in records
        for side, days in (("after", A_YEAR), ("before", -A_YEAR))
    ]
    rows = [encode_prompt(subject.tokenizer, asked_on(record, day)) for record, _, day in asked]
    for (record, *_), row in zip(asked, rows, strict=True):
        fit(record, len(row) + subject.sampling.max_new_tokens, subject.policy.config.max_seq_len)
    subject.show(rows[0])
    keys = [prompt_key(f"{record.identity} {side}") for record, side, _ in asked]
    eos_id, size = subject.tokenizer.eos_id, subject.batch_size
    answers = generate(
        subject.policy, rows, keys, subject.sampling, eos_id=eos_id, batch_size=size, on_progress=on_progress
    )
    items = []
    for (record, side, day), (answer,) in zip(asked, answers, strict=True):
        response = subject.tokenizer.decode(answer.tokens).strip()
        right = (
            answer_on(record, day).casefold() in response.casefold() if side == "after" else not tells(record, response)
        )
        items.append(
            {"id": record.identity, "side": side, "stated": day.isoformat(), "response": response, "right": right}
        )
    return items


def measure_dates(items: Sequence[Item]) -> dict[str, Estimate]:
    """Share of facts told after their event, kept back before it, and both: the stated date changed the answer."""
    sides = {side: [item["right"] for item in items if item["side"] == side] for side in ("after", "before")}
    both = [a and b for a, b in zip(sides["after"], sides["before"], strict=True)]
    return {"both": mean(both), "told_after": mean(sides["after"]), "silent_before": mean(sides["before"])}
