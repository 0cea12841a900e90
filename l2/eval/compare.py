"""Two models' answers to the same prompts, side by side: win, tie and loss, by kind of prompt too (paper §3.4.2).

A judge (l2/eval/judges.py) makes an item of each pair; `measure` makes the figures of the items alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from l2.eval.metrics import Estimate, mean, ratio, wilson
from l2.eval.stamp import made, task_version
from l2.files.errors import BadInput
from l2.files.jsonl import Record
from l2.tokens.chat import messages_of

VERSION = 1  # of the judges' rules and of what is measured: another rule is another version
POINTS = {"a": 1.0, "tie": 0.5, "b": 0.0}
QUANTILES = 5  # paper Figure 31
NONE = "none"  # names the group of items without a value

Item = dict[str, Any]
Metrics = dict[str, Estimate]  # "metric" or "metric/group": the estimate


class Measured(NamedTuple):
    """What was found: of which model, against which other, by what rule; an item a prompt, and the figures of all."""

    task: str
    model: str | None
    baseline: str | None
    protocol: str
    items: list[Item]
    metrics: Metrics


class Pair(NamedTuple):
    """Two answers to one prompt, as the sample records they came in."""

    id: str
    a: Record
    b: Record


def by_id(samples: Sequence[Record]) -> dict[str, Record]:
    """Samples by the id of their prompt. Raises BadInput for two of one prompt."""
    found: dict[str, Record] = {}
    for sample in samples:
        identity = str(sample.need("id", (str, int)))
        sample.need("response")
        if identity in found:
            raise BadInput(
                sample.where,
                f"a second answer to {identity!r}",
                f"one to a prompt (l2 generate -n 1), as in {found[identity].where}",
            )
        found[identity] = sample
    return found


def match(a: Sequence[Record], b: Sequence[Record]) -> list[Pair]:
    """The answers of two files to each prompt, in the order of `a`.

    Raises BadInput for a prompt that one file alone answers, or answers twice, and for an id of two prompts.
    """
    ours, theirs = by_id(a), by_id(b)
    for here, there, name in (ours, theirs, "--b"), (theirs, ours, "--a"):
        for identity, sample in here.items():
            if identity not in there:
                raise BadInput(sample.where, f"an answer to {identity!r}", f"one to a prompt that {name} answers, too")
    for identity, sample in ours.items():
        other = theirs[identity]
        if messages_of(sample, "prompt") != messages_of(other, "prompt"):
            raise BadInput(other.where, f"another prompt under the id {identity!r}", f"that of {sample.where}")
    return [Pair(identity, ours[identity], theirs[identity]) for identity in ours]


def model_name(samples: Sequence[Record], path: str) -> str:
    """The model that all samples name, or else the file they came in."""
    names = {str(sample.get("model")) for sample in samples}
    return names.pop() if len(names) == 1 and names != {"None"} else path


def turns_of(record: Record) -> int | None:
    """User messages of a record's prompt or, where it has none, what it says in `turns`. Raises BadInput for no count.

    A prompt that is a text is one turn.
    """
    if "prompt" in record:
        users = [message for message in messages_of(record, "prompt") if message["role"] == "user"]
        return len(users)
    if record.get("turns") is None:
        return None
    turns: int = record.need("turns", int)
    if isinstance(turns, bool) or turns < 1:
        raise BadInput(record.where, f"turns {turns!r}", "a count of at least 1")
    return turns


def category_of(record: Record) -> str | None:
    """A record's `category`. Raises BadInput for one that is no text."""
    return None if record.get("category") is None else str(record.need("category"))


def traits(pair: Pair) -> Item:
    """What the figures are broken down by: category, turns, words in the prompt and both answers, the longer answer."""
    words_a, words_b = (len(sample["response"].split()) for sample in (pair.a, pair.b))
    asked = sum(len(message["content"].split()) for message in messages_of(pair.a, "prompt"))
    return {
        "id": pair.id,
        "category": category_of(pair.a),
        "turns": turns_of(pair.a),
        "words": asked + words_a + words_b,
        "longer": "a" if words_a > words_b else "b" if words_b > words_a else "tie",
    }


def fifths(values: Sequence[int]) -> list[tuple[int, int]]:
    """(least, most) of the fifth of all values that each belongs to; equal values stay together."""
    ordered = sorted(values)
    edges = sorted({ordered[-(-len(ordered) * k // QUANTILES) - 1] for k in range(1, QUANTILES + 1)})
    members: dict[int, list[int]] = {}
    for value in ordered:
        members.setdefault(bisect_left(edges, value), []).append(value)
    return [(members[i][0], members[i][-1]) for i in (bisect_left(edges, value) for value in values)]


def groups(items: Sequence[Item], fields: Sequence[str]) -> Iterator[tuple[str, list[Item]]]:
    """("", all items), then ("/field=value", those of it) for each value of each field that has several."""
    yield "", list(items)
    for field in fields:
        values: list[Any] = [item.get(field) for item in items]
        if field == "words" and None not in values:
            values = fifths(values)
        members: dict[Any, list[Item]] = {}
        for item, value in zip(items, values, strict=True):
            members.setdefault(NONE if value is None else value, []).append(item)
        if len(members) > 1:
            for value in sorted(members, key=_rank):
                name = "-".join(map(str, value)) if isinstance(value, tuple) else value
                yield f"/{field}={name}", members[value]


def _rank(value: Any) -> Any:
    """Sorts values of a field: numbers, texts, NONE."""
    return value == NONE, isinstance(value, str), value


def share(outcomes: Sequence[float]) -> Estimate:
    """The share of outcomes, 0 to 1, with its binomial standard error and Wilson's 95 % interval."""
    return mean(outcomes)._replace(interval=wilson(sum(outcomes), len(outcomes)))


def outcomes(items: Sequence[Item]) -> Metrics:
    """Shares of pairs that a wins, ties and loses, each with Wilson's 95 % interval over prompts.

    win_rate counts ties half (its interval is then too wide, never too narrow); win_without_ties is win / (win + loss)
    (paper Figure 2).
    """
    winners = [item["winner"] for item in items]
    found = {
        name: share([winner == which for winner in winners])
        for name, which in (("win", "a"), ("tie", "tie"), ("loss", "b"))
    }
    found["win_rate"] = share([POINTS[winner] for winner in winners])
    decided = [winner == "a" for winner in winners if winner != "tie"]
    return found | ({"win_without_ties": share(decided)} if decided else {})


def habits(items: Sequence[Item]) -> Metrics:
    """What a judge is to be watched for, of the pairs that it decided.

    longer_wins: how often the longer answer won, of pairs of unequal length. Of judges that saw each pair in both
    orders: consistent, how often the two verdicts agree; first_wins, how often a verdict prefers the answer shown
    first; unread, how many verdicts could not be read. One half is no habit.
    """
    found: Metrics = {}
    unequal = [item for item in items if item["winner"] != "tie" and item.get("longer", "tie") != "tie"]
    if unequal:
        found["longer_wins"] = share([item["winner"] == item["longer"] for item in unequal])
    both = [item["verdicts"] for item in items if "verdicts" in item]
    if both:
        found["consistent"] = share([first is not None and first == second for first, second in both])
        # a verdict is in terms of a and b, and the second was given with b shown first
        decided = [sum(verdict in ("a", "b") for verdict in verdicts) for verdicts in both]
        first = [(one == "a") + (two == "b") for one, two in both]
        if any(decided):
            found["first_wins"] = ratio(first, decided)
        found["unread"] = share([verdict is None for verdicts in both for verdict in verdicts])
    return found


def by_groups(items: Sequence[Item], fields: Sequence[str], measures: Callable[[Sequence[Item]], Metrics]) -> Metrics:
    """The `measures` of all items and of each group, see `groups`."""
    return {
        name + group: estimate
        for group, members in groups(items, fields)
        for name, estimate in measures(members).items()
    }


def measure(items: Sequence[Item]) -> Metrics:
    """Outcomes in all and by category, turns and fifths of length (Figures 30 and 31), and the judge's habits."""
    return by_groups(items, ("category", "turns", "words"), outcomes) | habits(items)


def result_records(measured: Measured, inputs: Sequence[Record]) -> list[dict[str, Any]]:
    """Result records (design.md §2), one a metric; `inputs` are what was read."""
    common = {
        "protocol": measured.protocol,
        "task_version": task_version(VERSION, inputs),
        "model": measured.model,
        **({} if measured.baseline is None else {"baseline": measured.baseline}),
        **made(),
    }
    return [
        {"task": measured.task, "metric": metric, "value": found.value, "stderr": found.stderr, "n": found.n}
        | ({} if found.interval is None else {"interval": found.interval})
        | common
        for metric, found in measured.metrics.items()
    ]
