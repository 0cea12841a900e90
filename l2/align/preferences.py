"""Preference records: two answers to one prompt, which is better, by how much, and is it safe (paper §3.2.1)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from l2.align.losses import MARGINS
from l2.files.errors import BadInput, UsageError
from l2.files.jsonl import Record
from l2.tokens.chat import check_messages, encode_dialog, messages_of
from l2.tokens.tokenizer import Tokenizer

# Which of (chosen, rejected) are safe; a pair whose rejected answer alone is safe is no valid preference.
SAFE = {"chosen_safe": (1.0, 0.0), "both_safe": (1.0, 1.0), "both_unsafe": (0.0, 0.0)}
UNLABELLED = (-1.0, -1.0)


@dataclass(frozen=True)
class Pair:
    """A preference as ids, each ending in the EOS at which its score is read."""

    chosen: list[int]
    rejected: list[int]
    margin: float
    safe: tuple[float, float]  # 1 safe, 0 unsafe, -1 not labelled
    rating: str | None


def conversation(record: Record, field: str) -> list[dict[str, Any]]:
    """The whole conversation: prompt and answer. A list in `field` that repeats the prompt is taken as it is."""
    prompt = messages_of(record, "prompt")
    answer = record.need(field, (str, list))
    more = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
    said = [(message.get("role"), message.get("content")) for message in more if isinstance(message, dict)]
    repeats = said[: len(prompt)] == [(message["role"], message["content"]) for message in prompt]
    messages = check_messages(more if repeats else [*prompt, *more], record.where)
    if messages[-1]["role"] != "assistant":
        raise BadInput(
            record.where, f"a conversation in {field!r} that ends with the user", "one that ends with an answer"
        )
    return messages


def encode_pair(record: Record, tokenizer: Tokenizer, seq_len: int, margin: str = "none") -> Pair:
    """One preference record as ids. `margin` names a column of MARGINS (paper Table 27).

    Raises BadInput for an unknown rating or safety label, a missing rating where the margin needs it, two
    equal answers, and a conversation longer than `seq_len` (its last token carries the score).
    """
    rating, safety = record.get("rating"), record.get("safety")
    for field in ("rating", "safety"):
        if record.get(field) is not None:
            record.need(field)
    if margin != "none" and rating not in MARGINS[margin]:
        raise BadInput(record.where, f"rating {rating!r}", f"one of {', '.join(MARGINS[margin])}")
    if safety is not None and safety not in SAFE:
        raise BadInput(record.where, f"safety {safety!r}", f"one of {', '.join(SAFE)}")
    both = [encode_dialog(tokenizer, conversation(record, field)).ids for field in ("chosen", "rejected")]
    if both[0] == both[1]:
        raise BadInput(record.where, "chosen equal to rejected", "two different answers")
    if (longest := max(map(len, both))) > seq_len:
        raise BadInput(record.where, f"a conversation of {longest} tokens", f"at most {seq_len}")
    distance = MARGINS[margin][rating] if rating and margin != "none" else 0.0
    return Pair(both[0], both[1], distance, SAFE[safety] if safety else UNLABELLED, rating)


def encode_pairs(records: Iterable[Record], tokenizer: Tokenizer, seq_len: int, margin: str = "none") -> list[Pair]:
    """All records as pairs, see `encode_pair`. Raises UsageError for an unknown `margin`."""
    if margin not in MARGINS:
        raise UsageError(f"--margin {margin}: choose one of {', '.join(MARGINS)}")
    return [encode_pair(record, tokenizer, seq_len, margin) for record in records]
