"""Preference records: two answers to one prompt, which is better, by how much, and is it safe (paper §3.2.1)."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from l2.align.losses import MARGINS
from l2.files.errors import BadInput, UsageError
from l2.files.jsonl import Record
from l2.tokens.chat import check_messages, encode_dialog, messages_of
from l2.tokens.tokenizer import Tokenizer

# Which of (chosen, rejected) are safe. Whoever prefers an unsafe answer to a safe one is left out (paper §3.2.1).
SAFE = {"chosen_safe": (1.0, 0.0), "both_safe": (1.0, 1.0), "both_unsafe": (0.0, 0.0)}
EXCLUDED = "rejected_safe"
UNLABELLED = (-1.0, -1.0)
OWN = ("human", "simulated", None)  # sources of pairs of one's own (as l2 annotate writes); any other is open data
KINDS = ("helpful", "safe")


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


def margins_of(name: str) -> Mapping[str, float]:
    """m(rating): a column of MARGINS (paper Table 27), or a JSON file {rating: margin}.

    Raises UsageError for a name that is neither, and BadInput for a file of anything else.
    """
    if name in MARGINS:
        return MARGINS[name]
    if not Path(name).is_file():
        raise UsageError(f"--margin {name}: neither one of {', '.join(MARGINS)} nor a file")
    try:
        margins = orjson.loads(Path(name).read_bytes())
    except orjson.JSONDecodeError as error:
        raise BadInput(name, f"no JSON ({error})", "an object {rating: margin}") from None
    good = isinstance(margins, dict) and all(type(m) in (int, float) and 0 <= m < math.inf for m in margins.values())
    if not margins or not good:
        raise BadInput(name, f"{margins!r:.60}", "an object {rating: margin}, each margin a number of 0 or more")
    return {rating: float(margin) for rating, margin in margins.items()}


def valid(records: Iterable[Record]) -> list[Record]:
    """All but those whose chosen answer is unsafe and the rejected one safe (paper §3.2.1)."""
    return [record for record in records if record.get("safety") != EXCLUDED]


def mixed(records: Sequence[Record], preset: str, seed: int) -> list[Record]:
    """The paper's data for its two reward models (§3.2.2), from records with a `kind` and a `source`, in their order.

    helpful: all helpfulness pairs of one's OWN, and as many drawn uniformly from the rest (own safety pairs and open
    data of both kinds): one half each. safe: all safety pairs, own and open, and so many of helpfulness, own and open,
    that they are a tenth. Where there are not as many to draw, all are taken. Raises BadInput for a record of no or
    another kind, and UsageError for an unknown preset and where there is nothing to start from.
    """
    if preset not in KINDS:
        raise UsageError(f"--mix-preset {preset}: choose {' or '.join(KINDS)}")
    main: list[int] = []
    rest: list[int] = []
    for i, record in enumerate(records):
        if record.get("kind") not in KINDS:
            raise BadInput(record.where, f"kind {record.get('kind')!r}", f"{' or '.join(KINDS)}, for --mix-preset")
        own = preset == "safe" or record.get("source") in OWN
        (main if own and record["kind"] == preset else rest).append(i)
    if not main:
        whose = " of your own (source human, simulated or none)" if preset == "helpful" else ""
        raise UsageError(f"--mix-preset {preset}: no pair of kind {preset}{whose}")
    count = len(main) if preset == "helpful" else round(len(main) / 9)
    drawn = random.Random(seed).sample(rest, min(count, len(rest)))
    return [records[i] for i in sorted(main + drawn)]


def encode_pair(record: Record, tokenizer: Tokenizer, seq_len: int, margins: Mapping[str, float] | None = None) -> Pair:
    """One preference record as ids, with the margin of its rating, see `margins_of`; without them 0.

    Raises BadInput for an unknown rating or safety label, a missing rating where the margins need it, two
    equal answers, and a conversation longer than `seq_len` (its last token carries the score).
    """
    rating: Any = record.get("rating")
    safety = record.get("safety")
    for field in ("rating", "safety"):
        if record.get(field) is not None:
            record.need(field)
    margin = 0.0
    if margins is not None and any(margins.values()):  # where all are 0, nobody needs a rating
        if rating not in margins:
            raise BadInput(record.where, f"rating {rating!r}", f"one of {', '.join(margins)}")
        margin = margins[rating]
    if safety is not None and safety not in SAFE:
        raise BadInput(record.where, f"safety {safety!r}", f"one of {', '.join(SAFE)}")
    both = [encode_dialog(tokenizer, conversation(record, field)).ids for field in ("chosen", "rejected")]
    if both[0] == both[1]:
        raise BadInput(record.where, "chosen equal to rejected", "two different answers")
    if (longest := max(map(len, both))) > seq_len:
        raise BadInput(record.where, f"a conversation of {longest} tokens", f"at most {seq_len}")
    return Pair(both[0], both[1], margin, SAFE[safety] if safety else UNLABELLED, rating)


def encode_pairs(
    records: Iterable[Record], tokenizer: Tokenizer, seq_len: int, margins: Mapping[str, float] | None = None
) -> list[Pair]:
    """All records as pairs, see `encode_pair`."""
    return [encode_pair(record, tokenizer, seq_len, margins) for record in records]
