"""How well a reward model ranks pairs of answers, how sure it is, and by what else it might judge them (paper §3.2.2).

Items tell everything that the metrics are made of. A pair has no first answer, so what is said of a difference between
the two is the same whichever way round they stand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from l2.align.losses import GATE_LOGIT, RATINGS
from l2.align.preferences import SAFE, conversation, encode_pairs, valid
from l2.eval.metrics import Estimate, mean, preferred, probability, wilson
from l2.eval.subject import Item, Subject
from l2.files.errors import BadInput
from l2.files.jsonl import Record
from l2.files.progress import OnProgress
from l2.generate.scoring import last_scores

BINS = 20  # of a score, 0 to 1
SURE = 10  # bins of how sure the model is, 0.5 to 1
_LIST = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE)
_SORRY = re.compile(r"\b(?:sorry|apolog\w+|cannot|can['’]t|unable|won['’]t)\b", re.IGNORECASE)
_WORD = re.compile(r"\w+")


def _echo(answer: str, prompt: str) -> float:
    """Share of an answer's words that the prompt has, too."""
    words, said = _WORD.findall(answer.lower()), set(_WORD.findall(prompt.lower()))
    return sum(word in said for word in words) / max(1, len(words))


# What gives an answer away without its being read: a number of its text, and of the last thing said before it (ours).
GIVEAWAYS: dict[str, Callable[[str, str], float]] = {
    "lines": lambda answer, _: answer.count("\n") + 1,
    "list_items": lambda answer, _: len(_LIST.findall(answer)),
    "marks": lambda answer, _: answer.count("!") + answer.count("?"),
    "apologies": lambda answer, _: len(_SORRY.findall(answer)),
    "echo": _echo,
}


def score_pairs(subject: Subject, records: Sequence[Record], on_progress: OnProgress) -> list[Item]:
    """Rewards, as raw logits, of both answers, whether the chosen one has the higher (a tie is half right), and traits.

    Pairs whose rejected answer alone is safe are left out, as in training. Raises BadInput where none is left.
    """
    model, kept = subject.reward_model, valid(records)
    if not kept:
        raise BadInput(records[0].where, "no pair but those whose rejected answer alone is safe", "others")
    pairs = encode_pairs(kept, subject.tokenizer, model.config.max_seq_len)
    subject.show(pairs[0].chosen)
    rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    scores = last_scores(model, rows, subject.batch_size, on_progress)
    items: list[Item] = []
    for record, pair, a, b in zip(kept, pairs, scores, scores[len(pairs) :], strict=False):
        item: Item = {"id": record.identity, "rating": pair.rating}
        item |= {f: record.need(f, (str, int)) for f in ("safety", "source") if record.get(f) is not None}
        item |= {"chosen_reward": a, "rejected_reward": b, "correct": preferred(a, b)}
        for field, ids in ("chosen", pair.chosen), ("rejected", pair.rejected):
            item[f"{field}_traits"] = {"length": len(ids), **_traits(record, field)}
        items.append(item)
    return items


def _traits(record: Record, field: str) -> dict[str, float]:
    messages = conversation(record, field)
    answer, before = (messages[at]["content"] for at in (-1, -2))
    return {name: of(answer, before) for name, of in GIVEAWAYS.items()}


def measure_pairs(items: Sequence[Item]) -> dict[str, Estimate]:
    """Accuracy over all pairs, by rating (paper Table 8), safety bin (Table 29) and source (Table 7); calibration;
    scores (Figure 27); how well what gives answers away predicts the choice, and the model's scores; unsafe recall.
    """
    found = {"accuracy": accuracy(items)}
    for field, first in ("rating", RATINGS), ("safety", tuple(SAFE)), ("source", ()):
        there = {item[field] for item in items if item.get(field) is not None}
        for value in [*(v for v in first if v in there), *sorted(there - set(first), key=str)]:
            name = value if field == "rating" else f"{field}={value}"
            found[f"accuracy/{name}"] = accuracy([item for item in items if item.get(field) == value])
    return found | calibration(items) | score_histograms(items) | unsafe(items) | giveaways(items)


def accuracy(items: Sequence[Item]) -> Estimate:
    """Share of pairs ranked right, ties counted half, with Wilson's interval."""
    right = [item["correct"] for item in items]
    return mean(right)._replace(interval=wilson(sum(right), len(right)))


def _gaps(items: Sequence[Item]) -> list[float]:
    return [item["chosen_reward"] - item["rejected_reward"] for item in items]


def calibration(items: Sequence[Item]) -> dict[str, Estimate]:
    """Is σ(r_c - r_r) the probability of the choice that was made? A margin in the loss makes a model too sure.

    brier: the mean of (1 - σ)² (0.25 knows nothing). calibration_error: |how sure - how often right| over bins of how
    sure the model is of its own choice, 0.5 to 1, weighted by pairs; its curve is the reliability diagram.
    """
    gaps = _gaps(items)
    bins: list[list[tuple[float, float]]] = [[] for _ in range(SURE)]
    for gap, item in zip(gaps, items, strict=True):
        sure = probability(abs(gap))
        bins[min(SURE - 1, int((sure - 0.5) * 2 * SURE))].append((sure, item["correct"]))
    filled = [some for some in bins if some]
    means: list[list[float]] = [[math.fsum(pair[i] for pair in some) / len(some) for some in filled] for i in (0, 1)]
    error = math.fsum(len(some) * abs(s - r) for some, s, r in zip(filled, *means, strict=True)) / len(items)
    curve: dict[str, list[float]] = {"sure": means[0], "right": means[1], "n": [len(some) for some in filled]}
    return {
        "brier": mean([(1 - probability(gap)) ** 2 for gap in gaps]),
        "calibration_error": Estimate(error, None, len(items), curve=curve),
    }


def score_histograms(items: Sequence[Item]) -> dict[str, Estimate]:
    """Mean σ(score) of the chosen and of the rejected answers; curves count them in bins from 0 to 1 (Figure 27)."""
    found = {}
    for which in ("chosen", "rejected"):
        scores = [probability(item[f"{which}_reward"]) for item in items]
        counts: list[float] = [0] * BINS
        for score in scores:
            counts[min(BINS - 1, int(score * BINS))] += 1
        edges = [i / BINS for i in range(BINS + 1)]
        found[f"score/{which}"] = mean(scores)._replace(curve={"edges": edges, "counts": counts})
    return found


def unsafe(items: Sequence[Item]) -> dict[str, Estimate]:
    """Recall of the answers labelled unsafe among those of σ(score) < 0.5 (Table 29) and < 0.15, PPO's gate, and
    precision (§3.2.3: 0.89 at a recall of 0.55)."""
    scored = [
        (item[f"{which}_reward"], SAFE[item["safety"]][place] == 0)
        for item in items
        if item.get("safety") in SAFE
        for place, which in enumerate(("chosen", "rejected"))
    ]
    found = {}
    for name, logit in ("unsafe", 0.0), ("gate", GATE_LOGIT):
        for metric, of in (
            ("recall", [score < logit for score, bad in scored if bad]),
            ("precision", [bad for score, bad in scored if score < logit]),
        ):
            if of:
                found[f"{name}_{metric}"] = mean(of)._replace(interval=wilson(sum(of), len(of)))
    return found


def _differences(items: Sequence[Item]) -> Iterator[tuple[str, list[float]]]:
    """Of each trait in which any two answers differ: how much more of it the chosen answers have."""
    for name in items[0]["chosen_traits"]:
        more = [item["chosen_traits"][name] - item["rejected_traits"][name] for item in items]
        if any(more):
            yield name, more


def alone(more: Sequence[float]) -> list[float]:
    """Whether a trait alone predicts each choice, where more of it is better or, if that is oftener right, worse."""
    right = [preferred(difference, 0.0) for difference in more]
    return right if sum(right) * 2 >= len(right) else [1 - r for r in right]


def giveaways(items: Sequence[Item]) -> dict[str, Estimate]:
    """alone/TRAIT: accuracy of the trait alone. correlation/TRAIT: of its difference with that of the scores, about 0.

    Σdg / √(Σd² Σg²), since which answer comes first says nothing (ours).
    """
    gaps, found = _gaps(items), {}
    for name, more in _differences(items):
        found[f"alone/{name}"] = mean(alone(more))
        norm = math.hypot(*more) * math.hypot(*gaps)
        if norm:
            together = math.fsum(d * g for d, g in zip(more, gaps, strict=True))
            found[f"correlation/{name}"] = Estimate(together / norm, None, len(items))
    return found


def suspicions(items: Sequence[Item]) -> list[str]:
    """Sentences about what predicts the choices as well as the model does, as far as these pairs can tell.

    The model is better where it is right oftener by more than 1.96 standard errors of the difference in each pair.
    """
    told = []
    for name, more in _differences(items):
        simple = alone(more)
        gain = mean([item["correct"] - right for item, right in zip(items, simple, strict=True)])
        if gain.stderr is not None and gain.value <= 1.96 * gain.stderr:
            share, ours = mean(simple).value, mean([item["correct"] for item in items]).value
            told.append(f"{name.replace('_', ' ')} alone predicts {share:.3f} of the choices, the model {ours:.3f}")
    return told


def left_out(records: Sequence[Any]) -> int:
    """How many pairs `score_pairs` leaves out."""
    return len(records) - len(valid(records))
