"""Rejection sampling: of K answers to a prompt, keep the one that the reward models like best (paper §3.2.3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import torch

from l2.align.best_of import curve
from l2.align.losses import gate
from l2.files.errors import BadInput, UsageError
from l2.files.jsonl import Record
from l2.files.progress import OnProgress, ignore
from l2.generate.engine import Sampler, Sampling
from l2.generate.samples import WINDOW, Sample, add_rewards, sample_answers, windows
from l2.model.transformer import ScalarModel
from l2.tokens.chat import TAGS, as_messages, messages_of
from l2.tokens.tokenizer import Tokenizer

LONG = 16  # tokens from which an answer can be degenerate: shorter ones repeat themselves for good reasons
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


def unfit(sample: Sample) -> str | None:
    """Why an answer can't be learned from, in a word, or None where it can (ours: the paper does not say).

    "truncated": cut off before its end; "empty"; "forged": it writes a tag of the chat format; "degenerate": of its
    tokens, LONG or more, under half of the triples are different, so that it goes round in circles.
    """
    response, tokens = sample["response"], sample.get("tokens") or []
    if sample["finish"] != "stop":
        return "truncated"
    if not response.strip():
        return "empty"
    if any(tag in response for tag in TAGS):
        return "forged"
    triples = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return "degenerate" if len(tokens) >= LONG and len(set(triples)) < len(triples) / 2 else None


def fitness(samples: Sequence[Sample]) -> list[str | None]:
    """`unfit` of each candidate of a prompt, and "duplicate" where an earlier one that is fit says the same."""
    said: set[str] = set()
    reasons = []
    for sample in samples:
        reason = unfit(sample) or ("duplicate" if sample["response"] in said else None)
        if reason is None:
            said.add(sample["response"])
        reasons.append(reason)
    return reasons


def choose(reasons: Sequence[str | None], scores: Sequence[float]) -> int | None:
    """Index of the best-scored candidate that no reason speaks against, the first of equals; None where none is."""
    fit = (i for i, reason in enumerate(reasons) if reason is None)
    return max(fit, key=lambda i: (scores[i], -i), default=None)


def as_dialog(sample: Sample) -> dict[str, Any]:
    """A sample as a dialog for `l2 sft`: its prompt, then its answer; the other fields go along."""
    answer = {"role": "assistant", "content": sample["response"]}
    rest = {field: value for field, value in sample.items() if field not in ("prompt", "response", "tokens")}
    return {"messages": [*as_messages(sample["prompt"]), answer], **rest}


def as_sample(record: Record) -> Record:
    """A dialog that was chosen earlier as the sample that it was (see `as_dialog`); a sample as it is."""
    if "messages" not in record:
        for field in ("response", "finish"):
            record.need(field)
        return record
    messages = messages_of(record, "messages")
    if messages[-1]["role"] != "assistant":
        raise BadInput(record.where, "a dialog that ends with the user", "one that ends with an answer")
    rest = {field: value for field, value in record.items() if field not in ("messages", "score")}
    told = {"prompt": messages[:-1], "response": messages[-1]["content"], "finish": record.get("finish", "stop")}
    return Record(rest | told, record.where)


def make_pool(records: Iterable[Record], prompts: Sequence[Record]) -> dict[str, list[Record]]:
    """Those samples, or dialogs chosen earlier, of `records` that answer one of `prompts`, by its id.

    Their rewards are forgotten: they are scored anew. Raises BadInput for one whose prompt is not the one of that id:
    then the ids are of different files.
    """
    asked = {str(prompt["id"]): messages_of(prompt, "prompt") for prompt in prompts}
    pool: dict[str, list[Record]] = {}
    for sample in map(as_sample, records):
        identity = str(sample.need("id", (str, int)))
        if identity not in asked:
            continue
        if messages_of(sample, "prompt") != asked[identity]:
            raise BadInput(sample.where, f"another prompt under the id {identity!r}", "the prompt that has this id")
        fields = {field: value for field, value in sample.items() if field not in ("rewards", "unfit")}
        pool.setdefault(identity, []).append(Record(fields, sample.where))
    return pool


class Answered(NamedTuple):
    """What came of a prompt: the dialog of its best answer, its new samples, their scores, and where the best is from.

    `dialog` is None where no answer is fit; `pooled`: it was in the pool.
    """

    dialog: dict[str, Any] | None
    samples: list[Record]
    scores: list[float]
    pooled: bool


def rejection_sample(
    model: Sampler,
    tokenizer: Tokenizer,
    rewards: Mapping[str, ScalarModel],
    prompts: Sequence[Record],
    rows: Sequence[list[int]],
    sampling: Sequence[Sampling],
    *,
    name: str,
    k: int = 8,
    pool: Pool | None = None,
    batch_size: int = 64,
    on_progress: OnProgress = ignore,
) -> Iterator[Answered]:
    """For each prompt in turn, whose ids are `rows`: the best of `k` new samples for each of `sampling`.

    The dialog has the samples' fields, `rewards` {name: raw score}, and `score`, which decided; a new sample that can
    not be chosen says why in `unfit` (see `fitness`). Samples of the `pool`, scored anew, compete with the new ones:
    the paper found that the best of all earlier versions forget less (§3.2.3). Among equals the new one wins.
    """
    check_judges(rewards)
    sources = [
        sample_answers(
            model, tokenizer, prompts, rows, how, name=name, k=k, batch_size=batch_size,
            on_progress=on_progress if how is sampling[-1] else ignore,
        )
        for how in sampling
    ]  # fmt: skip
    drawn = k * len(sampling)
    groups = ([_numbered(s, i) for i, s in enumerate(chain(*parts))] for parts in zip(*sources, strict=True))
    for window in windows(groups, max(1, WINDOW * batch_size // drawn)):
        older = [list((pool or {}).get(str(group[0]["id"]), ())) for group in window]
        candidates = [sample for new, old in zip(window, older, strict=True) for sample in (*new, *old)]
        scored = add_rewards(rewards, tokenizer, candidates, batch_size=batch_size)
        for old in older:
            yield _answered([next(scored) for _ in range(drawn + len(old))], drawn)


def _numbered(sample: Record, number: int) -> Record:
    return Record(sample | {"sample": number}, sample.where)


def _answered(samples: Sequence[Record], drawn: int) -> Answered:
    """Choose among the samples of a prompt, of which the first `drawn` are new."""
    scores, reasons = combined(samples), fitness(samples)
    best = choose(reasons, scores)
    new = [
        Record(sample | ({"unfit": reason} if reason else {}), sample.where)
        for sample, reason in zip(samples[:drawn], reasons, strict=False)
    ]
    dialog = None if best is None else as_dialog(samples[best]) | {"score": scores[best]}
    return Answered(dialog, new, scores[:drawn], best is not None and best >= drawn)


@dataclass
class Tally:
    """What a person should hear of a run, and its scores for Figures 7 and 8."""

    prompts: int = 0
    pooled: int = 0
    drawn: int = 0
    unfit: Counter[str] = field(default_factory=Counter)
    chosen: Counter[str] = field(default_factory=Counter)  # texts
    scores: list[list[float]] = field(default_factory=list)  # of the new samples of each prompt

    def add(self, answered: Answered) -> None:
        """Count a prompt."""
        self.prompts += 1
        self.pooled += answered.pooled
        self.drawn += len(answered.samples)
        self.unfit.update(sample["unfit"] for sample in answered.samples if "unfit" in sample)
        self.scores.append(answered.scores)
        if answered.dialog is not None:
            self.chosen[answered.dialog["messages"][-1]["content"]] += 1

    def told(self) -> list[str]:
        """In sentences: what was kept, what could not be chosen, and which answers serve several prompts."""
        kept = self.chosen.total()
        pooled = f", {self.pooled:,} of them from the pool" if self.pooled else ""
        said = [
            f"{self.prompts:,} prompts: {kept:,} kept{pooled}, {self.prompts - kept:,} without an answer that is fit"
        ]
        if self.unfit:
            parts = ", ".join(f"{count:,} {reason}" for reason, count in self.unfit.most_common())
            said.append(f"of {self.drawn:,} new answers not to be chosen: {parts}")
        if alike := sum(count for count in self.chosen.values() if count > 1):
            (text, most), *_ = self.chosen.most_common(1)
            said.append(f"{alike:,} chosen answers serve several prompts; the commonest, {most:,} times: {text[:60]!r}")
        return said

    def curves(self, temperatures: Sequence[float]) -> dict[str, Any]:
        """`best_of.curve` for each of the `temperatures`, whose samples stand one after the other."""
        k = len(self.scores[0]) // len(temperatures)
        by = {t: [scores[i * k : (i + 1) * k] for scores in self.scores] for i, t in enumerate(temperatures)}
        curves = [{"temperature": t, **curve(groups)} for t, groups in by.items()]
        return {"prompts": self.prompts, "k": k, "score": "R_c, a raw logit (paper §3.2.3)", "curves": curves}
