"""What is compared, from the files that people have: samples, prompts whose answers are to come, and checks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from l2.align.annotation.board import Answer, Item
from l2.align.preferences import conversation
from l2.files.errors import BadInput
from l2.files.jsonl import Record
from l2.tokens.chat import messages_of

# What belongs to one answer or to a pair, and not to the prompt.
OF_ANSWERS = {"response", "finish", "tokens", "logprob", "temperature", "sample", "model", "rewards", "score"}
OF_PAIRS = {"prompt", "id", "safety", "chosen", "rejected", "rating", "kind", "source"}


def _fields(record: Record) -> dict[str, Any]:
    fields = {name: value for name, value in record.items() if name not in OF_ANSWERS | OF_PAIRS}
    return fields | ({"prompt_source": record["source"]} if record.get("source") is not None else {})


def _prompt(record: Record) -> list[dict[str, Any]]:
    messages = messages_of(record, "prompt")
    if messages[-1]["role"] != "user":
        raise BadInput(record.where, "a prompt that ends with the assistant", "one that ends with the user")
    return messages


def from_prompts(records: Iterable[Record]) -> list[Item]:
    """An item for each prompt record; its answers are to be sampled. Raises BadInput for what is no prompt."""
    return [Item(record.identity, _prompt(record), None, _fields(record)) for record in records]


def _couples(samples: Sequence[Record]) -> Iterable[tuple[Record, Record]]:
    """Each sample once: those of the first model with those of others while there are both, then two in a row."""
    first = [sample for sample in samples if sample.get("model") == samples[0].get("model")]
    others = [sample for sample in samples if sample.get("model") != samples[0].get("model")]
    both = min(len(first), len(others))
    left = first[both:] + others[both:]
    return [*zip(first, others, strict=False), *zip(left[::2], left[1::2], strict=False)]


def from_samples(records: Iterable[Record]) -> tuple[list[Item], int]:
    """Pairs of answers to one prompt, and how many pairs are left out since both answers are the same.

    Of two models' samples each pair has one of either. Samples of a prompt share its id or, without ids, its text.
    Raises BadInput for an id with two prompts, and where no prompt has two answers.
    """
    groups: dict[str, list[Record]] = {}
    where = "samples"
    for record in records:
        where = record.where
        key = str(record["id"]) if record.get("id") is not None else str(record.need("prompt", (str, list)))
        group = groups.setdefault(key, [])
        record.need("response")
        if group and group[0]["prompt"] != record.need("prompt", (str, list)):
            raise BadInput(where, f"another prompt under the id {key!r}", "one prompt an id")
        group.append(record)
    items, same = list[Item](), 0
    for group in groups.values():
        messages, name = _prompt(group[0]), group[0].identity
        for number, pair in enumerate(_couples(group)):
            a, b = (Answer(one["response"].strip(), one.get("model"), one.get("temperature")) for one in pair)
            if a.text == b.text:
                same += 1
                continue
            items.append(Item(f"{name}/{number}" if number else name, messages, (a, b), _fields(group[0])))
    if not items:
        raise BadInput(where, "no two different answers to one prompt", "several answers a prompt, as of generate -n 2")
    return items, same


def from_checks(records: Iterable[Record]) -> list[Item]:
    """Attention checks: preference records whose chosen answer is better beyond doubt.

    Raises BadInput for what is none, and for two equal answers.
    """
    items = list[Item]()
    for record in records:
        texts = [str(conversation(record, name)[-1]["content"]).strip() for name in ("chosen", "rejected")]
        if texts[0] == texts[1]:
            raise BadInput(record.where, "chosen equal to rejected", "a check whose answer is beyond doubt")
        answers = Answer(texts[0]), Answer(texts[1])
        items.append(Item(f"check:{record.identity}", _prompt(record), answers, check=True))
    return items
