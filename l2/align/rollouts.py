"""Answers of a policy to prompts, what the reward models say of them, and the micro-batches they are learned in.

Tokens only: what was sampled is what is scored and learned, with no text in between. Shape letters: N answers of a
batch, B answers of a micro-batch, A actions (the tokens of its answers, row after row), T tokens of a prompt and its
answer, R tokens of an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from l2.align.losses import GATE_LOGIT, gate, kl_k1, kl_k3
from l2.files.errors import BadInput
from l2.files.jsonl import Record
from l2.generate.engine import Completion
from l2.generate.scoring import last_scores, pad
from l2.model.checkpoint import AnyModel
from l2.model.transformer import LanguageModel, ScalarModel
from l2.train.pretrain import measured_losses, token_losses

# (prompts, answers) as ids to raw logits: helpfulness [N], and safety [N] or None where nobody judges it.
RewardFn = Callable[[Sequence[list[int]], Sequence[list[int]]], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Prompt:
    """A prompt as ids. `identity` keys what is drawn for it; `tagged`: it may elicit something unsafe."""

    ids: list[int]
    identity: str
    tagged: bool = False
    text: Any = field(default=None, compare=False)  # as it came, for samples that people read


def as_prompts(records: Sequence[Record], rows: Sequence[list[int]], longest: int) -> list[Prompt]:
    """Prompt records {id, safety} whose ids are `rows`. Raises BadInput for one of more than `longest` tokens."""
    prompts = []
    for record, ids in zip(records, rows, strict=True):
        if len(ids) > longest:
            raise BadInput(
                record.where, f"a prompt of {len(ids)} tokens", f"at most {longest}: the answer must fit too"
            )
        tagged = "safety" in record and record.need("safety", bool)
        prompts.append(Prompt(ids, record.identity, tagged, record.get("prompt")))
    return prompts


def reward_models(helpful: ScalarModel, safe: ScalarModel | None, batch_size: int = 32) -> RewardFn:
    """Scores of two reward models at the last token of an answer: its EOS, or where it was cut off."""

    def score(prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> tuple[Tensor, Tensor | None]:
        rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        both = [
            None if model is None else torch.tensor(last_scores(model, rows, batch_size)) for model in (helpful, safe)
        ]
        assert both[0] is not None
        return both[0], both[1]

    return score


@dataclass(frozen=True)
class Rollout:
    """N answers, their scores as raw logits, and R_c: the one of the two that counts (paper §3.2.3)."""

    prompts: Sequence[Prompt]
    answers: Sequence[Completion]
    helpful_N: Tensor
    safe_N: Tensor | None
    scores_N: Tensor  # R_c
    gated_N: Tensor  # bool: R_c is the safety score
    cut_N: Tensor  # bool: ended by length, without EOS


def judge(prompts: Sequence[Prompt], answers: Sequence[Completion], score: RewardFn) -> Rollout:
    """Score answers and choose R_c by the gate; without safety scores R_c is helpfulness alone."""
    helpful_N, safe_N = score([prompt.ids for prompt in prompts], [answer.tokens for answer in answers])
    tagged_N = torch.tensor([prompt.tagged for prompt in prompts])
    cut_N = torch.tensor([answer.finish == "length" for answer in answers])
    if safe_N is None:
        return Rollout(prompts, answers, helpful_N, None, helpful_N, torch.zeros_like(tagged_N), cut_N)
    scores_N, gated_N = gate(safe_N, helpful_N, tagged_N), tagged_N | (safe_N < GATE_LOGIT)
    return Rollout(prompts, answers, helpful_N, safe_N, scores_N, gated_N, cut_N)


@dataclass
class Part:
    """A micro-batch: B answers after their prompts, padded on the right. Masks come from lengths, never from ids."""

    rows_B: Tensor  # which answers of the rollout
    tokens_BT: Tensor
    mask_BR: Tensor  # bool: the answer is that long
    row_A: Tensor  # the row of an action, row by row
    at_A: Tensor  # the position that predicts it, one before its own
    last_B: Tensor  # which action ends each answer: its EOS, or the last token of an answer cut off
    drawn_A: Tensor  # log-probabilities, in nats: as the sampler drew,
    old_A: Tensor = field(default_factory=lambda: torch.empty(0))  # of the policy before the update,
    reference_A: Tensor = field(default_factory=lambda: torch.empty(0))  # of the reference
    entropy_A: Tensor = field(default_factory=lambda: torch.empty(0))
    values_A: Tensor = field(default_factory=lambda: torch.empty(0))
    advantages_A: Tensor = field(default_factory=lambda: torch.empty(0))
    returns_A: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def targets_A(self) -> Tensor:
        """The actions themselves."""
        return self.tokens_BT[self.row_A, self.at_A + 1]

    def to(self, device: torch.device | str) -> Part:
        """The same on `device`."""
        return Part(*(getattr(self, each.name).to(device) for each in fields(self)))

    def grid(self, values_A: Tensor) -> Tensor:
        """One value an action as rows of answers [B, R], 0 after their ends."""
        return torch.zeros(self.mask_BR.shape, device=values_A.device).masked_scatter(self.mask_BR, values_A)


def make_part(rollout: Rollout, rows: Sequence[int], device: torch.device | str) -> Part:
    """The answers `rows` of a rollout as one micro-batch."""
    answers, prompts = [rollout.answers[i] for i in rows], [rollout.prompts[i] for i in rows]
    tokens_BT, _ = pad([p.ids + a.tokens for p, a in zip(prompts, answers, strict=True)])
    starts_B = torch.tensor([len(prompt.ids) for prompt in prompts])
    lengths_B = torch.tensor([len(answer.tokens) for answer in answers])
    mask_BR = torch.arange(int(lengths_B.max())) < lengths_B[:, None]
    row_A, step_A = mask_BR.nonzero(as_tuple=True)
    drawn_A = torch.tensor([logprob for answer in answers for logprob in answer.logprobs])
    tensors = (torch.tensor(rows), tokens_BT, mask_BR, row_A, starts_B[row_A] - 1 + step_A, lengths_B.cumsum(0) - 1)
    return Part(*(tensor.to(device) for tensor in (*tensors, drawn_A)))


def cut(
    rollout: Rollout, mini_batch: int, micro_batch: int, device: torch.device | str, rank: int = 0, world: int = 1
) -> list[list[Part]]:
    """The rollout as mini-batches of micro-batches, or what `rank` of `world` learns of each.

    The prompts came in random order, so mini-batches are slices; inside one, answers of like length go together, which
    saves padding and changes no sum, and every rank has its share of each length.
    """

    def length(row: int) -> int:
        return len(rollout.prompts[row].ids) + len(rollout.answers[row].tokens)

    minis = []
    for first in range(0, len(rollout.answers), mini_batch):
        rows = sorted(range(first, min(first + mini_batch, len(rollout.answers))), key=length)[rank::world]
        minis.append([make_part(rollout, rows[i : i + micro_batch], device) for i in range(0, len(rows), micro_batch)])
    return minis


def action_hidden(model: AnyModel, part: Part) -> Tensor:
    """The hidden states [A, D] before the actions."""
    wanted_BT = torch.zeros_like(part.tokens_BT, dtype=torch.bool)
    wanted_BT[part.row_A, part.at_A] = True
    return model.hidden(part.tokens_BT, wanted_BT=wanted_BT)


def action_values(value: ScalarModel, part: Part) -> Tensor:
    """V [A] of the state before each action."""
    values_A1: Tensor = value.score(action_hidden(value, part))
    return values_A1.float().squeeze(1).clone()  # of a view FSDP warns


def action_logprobs(policy: LanguageModel, part: Part) -> Tensor:
    """log π [A] of the actions."""
    return -token_losses(policy, action_hidden(policy, part), part.targets_A)


@torch.no_grad()
def measure(part: Part, policy: LanguageModel, reference: LanguageModel, value: ScalarModel | None) -> None:
    """Fill in log-probabilities, entropies and, with a value model, V, by the forward pass of training.

    In the micro-batches of the update, so that the ratio of its first mini-batch is 1 to the last bit.
    """
    losses_A, part.entropy_A = measured_losses(policy, action_hidden(policy, part), part.targets_A)
    part.old_A = -losses_A
    part.reference_A = action_logprobs(reference, part)
    if value is not None:
        part.values_A = action_values(value, part)


def answer_kls(parts: Sequence[Part], count: int) -> list[float]:
    """log π - log π_0 of each of `count` answers, summed over its tokens: unbiased for its KL, of either sign."""
    kls_N = torch.zeros(count, dtype=torch.float64)
    for part in parts:
        log_ratio_A = kl_k1(part.old_A, part.reference_A).double().cpu()
        kls_N.index_add_(0, part.rows_B.cpu()[part.row_A.cpu()], log_ratio_A)
    kls: list[float] = kls_N.tolist()
    return kls


def distinct(answers: Sequence[Completion], n: int = 2) -> float:
    """Different n-grams over all n-grams of the answers (Li et al. 2016): falls when they become alike."""
    grams = [tuple(a.tokens[i : i + n]) for a in answers for i in range(len(a.tokens) - n + 1)]
    return len(set(grams)) / max(1, len(grams))


def metrics(rollout: Rollout, parts: Sequence[Part]) -> dict[str, float]:
    """What is logged of measured answers. Scores are raw logits; kl is in nats an answer, entropy in nats a token."""
    old, reference, drawn = (
        torch.cat([getattr(p, f"{name}_A") for p in parts]).double() for name in ("old", "reference", "drawn")
    )
    entropy = torch.cat([part.entropy_A for part in parts]).double()
    answers = len(rollout.answers)
    means = {"reward": rollout.scores_N, "helpful": rollout.helpful_N}
    spreads = {"helpful_std": rollout.helpful_N}
    if rollout.safe_N is not None:
        means |= {"safe": rollout.safe_N, "gated": rollout.gated_N}
        spreads |= {"safe_std": rollout.safe_N}
    found = {name: float(values.double().mean()) for name, values in means.items()}
    found |= {name: float(values.double().std(unbiased=False)) for name, values in spreads.items()}
    return found | {
        "kl": float(kl_k1(old, reference).sum()) / answers,
        "kl_k3": float(kl_k3(old, reference).sum()) / answers,
        "entropy": float(entropy.mean()),
        "length": len(old) / answers,
        "eos_rate": 1.0 - float(rollout.cut_N.double().mean()),
        "distinct_2": distinct(rollout.answers),
        "sampler_gap": float((old - drawn).abs().mean()),
    }
