"""What samples say of the models that wrote them: how alike, how well rewarded, how often a refusal, how toxic.

Figure 20 (rewards, version by version), Figure 21 (Self-BLEU by temperature), Figure 33 (false refusals), Table 11.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from l2.eval.diversity import self_bleu
from l2.eval.metrics import Estimate, clustered, mean, probability
from l2.eval.refusals import refuses
from l2.eval.stamp import made, task_version
from l2.files.errors import BadInput
from l2.files.jsonl import Record
from l2.text.toxicity import TOXIC

VERSION = 1  # of the metrics below
QUANTILES = (5, 25, 50, 75, 95)  # percent of a group's scores below
TAIL = 5  # percent: the low tail of the first model, which tuning is to remove (paper Figure 20)
BY = ("model", "category", "temperature")  # fields of samples that are measured together

Toxicity = Callable[[str], float]


class Group(NamedTuple):
    """Samples with the same values of some fields, and what was measured."""

    keys: dict[str, Any]
    samples: list[Record]
    metrics: dict[str, Estimate]


def _by(samples: Sequence[Record], fields: Sequence[str]) -> dict[tuple[Any, ...], list[Record]]:
    found: dict[tuple[Any, ...], list[Record]] = {}
    for sample in samples:
        found.setdefault(tuple(sample.get(field) for field in fields), []).append(sample)
    return found


def prompt_of(sample: Record) -> str:
    """Which prompt a sample answers: its id or, without one, its text."""
    return str(sample.get("prompt", sample.where) if sample.get("id") is None else sample["id"])


def diversity(samples: Sequence[Record]) -> dict[str, Estimate]:
    """Self-BLEU of each prompt's answers, averaged over the prompts that have two or more."""
    prompts: dict[str, list[str]] = {}
    for sample in samples:
        prompts.setdefault(prompt_of(sample), []).append(sample["response"])
    alike = [self_bleu(some) for some in prompts.values() if len(some) > 1]
    return {"self_bleu": mean(alike)} if alike else {}


def score_of(sample: Record, judge: str) -> float:
    """The sample's reward by `judge` as the paper has it, 0 to 1: the sigmoid of the raw one."""
    return probability(float(sample["rewards"][judge]))


def rewarded(samples: Sequence[Record], first: Sequence[Record]) -> dict[str, Estimate]:
    """By each judge that scored all: the mean score, its quantiles, and the share below the low tail of `first`."""
    judges = [j for j in samples[0].get("rewards") or () if all(j in (s.get("rewards") or ()) for s in samples)]
    found: dict[str, Estimate] = {}
    for judge in judges:
        scores = [score_of(sample, judge) for sample in samples]
        found[f"score/{judge}"] = _clustered(scores, samples)
        for percent, value in zip(QUANTILES, np.percentile(scores, QUANTILES).tolist(), strict=True):
            found[f"score/{judge}/p{percent:02d}"] = Estimate(value, None, len(scores))
        if all(judge in (s.get("rewards") or ()) for s in first):
            tail = float(np.percentile([score_of(sample, judge) for sample in first], TAIL))
            found[f"low_tail/{judge}"] = _clustered([score < tail for score in scores], samples)
    return found


def _clustered(values: Sequence[float], samples: Sequence[Record]) -> Estimate:
    """The mean of `values`, with the samples of one prompt sampled together; n counts the prompts."""
    prompts = [prompt_of(sample) for sample in samples]
    return clustered(values, prompts)._replace(n=len(set(prompts)))


def survey(samples: Sequence[Record], toxicity: Toxicity | None = None, by: Sequence[str] = BY) -> Iterator[Group]:
    """Each group of samples, in order, measured; `by` are the fields that part them.

    The low tail is that of the first model's samples among those of the same category. Raises BadInput for a record
    without a response.
    """
    for sample in samples:
        if not isinstance(sample.get("response"), str):
            raise BadInput(sample.where, f"fields {', '.join(sorted(sample))}", "a sample: a prompt with its response")
        rewards = sample.get("rewards") or {}
        if not isinstance(rewards, dict) or not all(isinstance(value, int | float) for value in rewards.values()):
            raise BadInput(sample.where, f"rewards {rewards!r:.60}", "a number by each reward model")
        for field in {"id", *by}:
            if isinstance(sample.get(field), list | dict):
                raise BadInput(sample.where, f"{field} {sample[field]!r:.60}", "a text or a number")
    first: dict[Any, list[Record]] = {}  # samples of the model that came first, by category
    for keys, some in _by(samples, by).items():
        named = dict(zip(by, keys, strict=True))
        earliest = first.setdefault(named.get("category"), some)
        metrics = diversity(some) | rewarded(some, earliest)
        metrics["refused"] = _clustered([refuses(sample["response"]) for sample in some], some)
        if toxicity is not None:
            metrics["toxic"] = _clustered([toxicity(sample["response"]) >= TOXIC for sample in some], some)
        yield Group({field: key for field, key in named.items() if key is not None}, some, metrics)


def survey_records(
    task: str, groups: Sequence[Group], inputs: Sequence[Record], toxicity_by: str = ""
) -> list[dict[str, Any]]:
    """Result records (design.md §2), one a metric of a group; those of toxicity name what scored it."""
    common = {
        "task": task,
        "protocol": "survey",
        "task_version": task_version(VERSION, inputs),
        **made(),
    }
    return [
        common
        | {"metric": metric, "value": found.value, "stderr": found.stderr, "n": found.n}
        | ({"toxicity_by": toxicity_by} if metric == "toxic" else {})
        | group.keys
        for group in groups
        for metric, found in group.metrics.items()
    ]
