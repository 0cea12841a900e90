"""Rejection sampling: of K answers to a prompt, keep the one that the reward models like best (paper §3.2.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from l2.align.losses import gate
from l2.files.errors import BadInput, UsageError
from l2.files.jsonl import Record
from l2.files.progress import OnProgress, ignore
from l2.generate.engine import Sampler, Sampling
from l2.generate.samples import WINDOW, Sample, add_rewards, sample_answers, windows
from l2.model.transformer import ScalarModel
from l2.tokens.chat import TAGS, as_messages, messages_of
from l2.tokens.tokenizer import Tokenizer

Pool = Mapping[str, Sequence[Record]]  # samples of earlier runs by the id of their prompt


def check_judges(names: Iterable[str]) -> None:
    """Raises UsageError unless there is one reward model, or two called helpful and safe."""
    names = set(names)
    if len(names) != 1 and names != {"helpful", "safe"}:
        raise UsageError("give one --rm DIR, or two: --rm helpful=DIR --rm safe=DIR")


def combined(samples: Sequence[Sample]) -> list[float]:
    """One score a sample: its only reward, or the gated pair of `helpful` and `safe` (see `gate`)."""
    rewards: list[Mapping[str, float]] = [sample["rewards"] for sample in samples]
    if all(len(reward) == 1 for reward in rewards):
        return [next(iter(reward.values())) for reward in rewards]
    safe, helpful = (torch.tensor([reward[name] for reward in rewards]) for name in ("safe", "helpful"))
    tagged = torch.tensor([bool(sample.get("safety")) for sample in samples])
    scores: list[float] = gate(safe, helpful, tagged).tolist()
    return scores


def fit(sample: Sample) -> bool:
    """Whether an answer can be learned from: it ended by itself, says something, and forges no tag of the format."""
    response: str = sample["response"]
    return sample["finish"] == "stop" and bool(response) and not any(tag in response for tag in TAGS)


def choose(samples: Sequence[Sample], scores: Sequence[float]) -> int | None:
    """Index of the best-scored sample that is `fit`, the first of equals; None where none is.

    Answers cut off or empty are never chosen (ours: the paper does not say).
    """
    return max((i for i, sample in enumerate(samples) if fit(sample)), key=lambda i: (scores[i], -i), default=None)


def as_dialog(sample: Sample) -> dict[str, Any]:
    """A sample as a dialog for `l2 sft`: its prompt, then its answer; the other fields go along."""
    answer = {"role": "assistant", "content": sample["response"]}
    rest = {field: value for field, value in sample.items() if field not in ("prompt", "response", "tokens")}
    return {"messages": [*as_messages(sample["prompt"]), answer], **rest}


def make_pool(samples: Iterable[Record], prompts: Sequence[Record]) -> dict[str, list[Record]]:
    """Those of `samples` that answer one of `prompts`, by its id.

    Their rewards are forgotten: they are scored anew. Raises BadInput for a sample whose prompt is not the one of
    that id: then the ids are of different files.
    """
    asked = {str(prompt["id"]): messages_of(prompt, "prompt") for prompt in prompts}
    pool: dict[str, list[Record]] = {}
    for sample in samples:
        for field in ("response", "finish"):
            sample.need(field)
        identity = str(sample.need("id", (str, int)))
        if identity not in asked:
            continue
        if messages_of(sample, "prompt") != asked[identity]:
            raise BadInput(sample.where, f"another prompt under the id {identity!r}", "the prompt that has this id")
        fields = {field: value for field, value in sample.items() if field != "rewards"}
        pool.setdefault(identity, []).append(Record(fields, sample.where))
    return pool


def rejection_sample(
    model: Sampler,
    tokenizer: Tokenizer,
    rewards: Mapping[str, ScalarModel],
    prompts: Sequence[Record],
    rows: Sequence[list[int]],
    sampling: Sampling,
    *,
    name: str,
    k: int = 8,
    pool: Pool | None = None,
    batch_size: int = 64,
    on_progress: OnProgress = ignore,
) -> Iterator[tuple[dict[str, Any] | None, list[Record]]]:
    """For each prompt in turn, whose ids are `rows`: the dialog of the best answer, and all `k` new samples.

    The dialog has the samples' fields, `rewards` {name: raw score}, and `score`, which decided. It is None where no
    answer is fit (see `choose`). Samples of the `pool`, scored anew, compete with the new ones: the paper found that
    the best of all earlier versions forget less (§3.2.3). Among equals the new one wins.
    """
    check_judges(rewards)
    groups = sample_answers(
        model, tokenizer, prompts, rows, sampling, name=name, k=k, batch_size=batch_size, on_progress=on_progress
    )
    for window in windows(groups, max(1, WINDOW * batch_size // k)):
        older = [list((pool or {}).get(str(group[0]["id"]), ())) for group in window]
        candidates = [sample for new, old in zip(window, older, strict=True) for sample in (*new, *old)]
        scored = add_rewards(rewards, tokenizer, candidates, batch_size=batch_size)
        for old in older:
            samples = [next(scored) for _ in range(k + len(old))]
            scores = combined(samples)
            best = choose(samples, scores)
            yield None if best is None else as_dialog(samples[best]) | {"score": scores[best]}, samples[:k]
