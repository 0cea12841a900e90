"""Rejection sampling: of K answers to a prompt, keep the one that the reward models like best (paper §3.2.3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from l2.align.losses import gate
from l2.generate.samples import Sample
from l2.tokens.chat import as_messages


def combined(samples: Sequence[Sample]) -> list[float]:
    """One score a sample: its only reward, or the gated pair of `helpful` and `safe` (see `gate`)."""
    rewards: list[Mapping[str, float]] = [sample["rewards"] for sample in samples]
    if all(len(reward) == 1 for reward in rewards):
        return [next(iter(reward.values())) for reward in rewards]
    safe, helpful = (torch.tensor([reward[name] for reward in rewards]) for name in ("safe", "helpful"))
    tagged = torch.tensor([bool(sample.get("safety")) for sample in samples])
    scores: list[float] = gate(safe, helpful, tagged).tolist()
    return scores


def choose(samples: Sequence[Sample], scores: Sequence[float]) -> int | None:
    """Index of the best-scored sample, the first of equals; None where all are unfit.

    An answer that was cut off, or that is empty, is never chosen (ours: the paper does not say).
    """
    fit = [i for i, sample in enumerate(samples) if sample["finish"] == "stop" and sample["response"]]
    return max(fit, key=lambda i: (scores[i], -i), default=None)


def as_dialog(sample: Sample) -> dict[str, Any]:
    """A sample as a dialog for `l2 sft`: its prompt, then its answer; the other fields go along."""
    answer = {"role": "assistant", "content": sample["response"]}
    rest = {k: v for k, v in sample.items() if k not in ("prompt", "response", "tokens")}
    return {"messages": [*as_messages(sample["prompt"]), answer], **rest}


def best_of(groups: Iterable[Sequence[Sample]], counts: Counter[str]) -> Iterator[dict[str, Any]]:
    """The dialog of the best sample of each group (one prompt's answers, with `rewards`).

    `counts` is added to: "kept", and "no answer fit" for prompts left out.
    """
    for samples in groups:
        scores = combined(samples)
        best = choose(samples, scores)
        if best is None:
            counts["no answer fit"] += 1
            continue
        counts["kept"] += 1
        yield as_dialog(samples[best]) | {"score": scores[best]}
