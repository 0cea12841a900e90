"""The mathematics of alignment as pure functions: each names its equation, its sign and where the paper is silent."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

RATINGS = ("significantly", "better", "slightly", "negligibly")
MARGINS: dict[str, dict[str, float]] = {  # m(rating), paper Table 27
    "none": dict.fromkeys(RATINGS, 0.0),
    "small": dict(zip(RATINGS, (1.0, 2 / 3, 1 / 3, 0.0), strict=True)),
    "large": dict(zip(RATINGS, (3.0, 2.0, 1.0, 0.0), strict=True)),
}
GATE_LOGIT = math.log(0.15 / 0.85)  # -1.7346: below it the safety reward takes over


def ranking_loss(chosen_P: Tensor, rejected_P: Tensor, margin_P: Tensor) -> Tensor:
    """-log σ(r(x, y_c) - r(x, y_r) - m(rating)) of each pair [P] (paper Eq. 1 and 2); to be minimised."""
    return -F.logsigmoid(chosen_P - rejected_P - margin_P)


def safety_loss(scores_B: Tensor, safe_B: Tensor) -> Tensor:
    """Binary cross-entropy [B] of σ(score) against 1 for safe, 0 for unsafe.

    The paper's auxiliary loss (A.3.4) has a name and an effect but no equation: this form is ours.
    """
    return F.binary_cross_entropy_with_logits(scores_B, safe_B, reduction="none")


def gate(safe_B: Tensor, helpful_B: Tensor, tagged_B: Tensor) -> Tensor:
    """R_c as a logit [B]: the safety score where the prompt is tagged or σ(safe) < 0.15, else the helpfulness score.

    Paper §3.2.3. On logits, since the paper whitens LOGIT(R_c) and LOGIT(σ(z)) = z: exact, and never infinite.
    """
    return torch.where(tagged_B | (safe_B < GATE_LOGIT), safe_B, helpful_B)


def whitening_std(count: int, variance: float) -> float:
    """What WHITEN divides by: √(variance + 1e-8), or 1 for a single value and for values all alike (std < 1e-6, ours).

    Dividing those would blow up rounding noise.
    """
    return math.sqrt(variance + 1e-8) if count > 1 and variance >= 1e-12 else 1.0


def whiten(values: Tensor, mean: float | None = None, std: float | None = None) -> Tensor:
    """(x - mean) / std of all `values` together (paper Eq. 4, WHITEN), statistics in fp64 from `values` unless given.

    The mean is removed. The paper is silent on the scope: ours is every value of the rollout batch.
    """
    if mean is None or std is None:
        exact = values.double()
        mean, std = float(exact.mean()), whitening_std(exact.numel(), float(exact.var(unbiased=False)))
    return (values - mean) / std


def kl_k1(policy_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """log π - log π_0 of the tokens drawn: unbiased for KL(π ‖ π_0), of either sign on one sample (Schulman 2020)."""
    return policy_logprobs - reference_logprobs


def kl_k3(policy_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """π_0/π - 1 - log(π_0/π): unbiased for KL(π ‖ π_0), never negative (Schulman 2020). For the log only."""
    log_ratio = reference_logprobs - policy_logprobs
    return log_ratio.exp() - 1.0 - log_ratio


def gae(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float = 1.0, lam: float = 0.95) -> Tensor:
    """Advantages [B, T]: A_t = Σ_l (γλ)^l δ_(t+l), δ_t = r_t + γ V_(t+1) - V_t, V = 0 after the last action.

    Schulman et al. 2016. `mask_BT` is 1 on actions; the rest is passed over as if it were not there.
    """
    advantages = torch.zeros_like(values_BT)
    carry = next_value = torch.zeros_like(values_BT[:, 0])
    for t in range(values_BT.shape[1] - 1, -1, -1):
        on = mask_BT[:, t].bool()
        delta = rewards_BT[:, t] + gamma * next_value - values_BT[:, t]
        carry = torch.where(on, delta + gamma * lam * carry, carry)
        next_value = torch.where(on, values_BT[:, t], next_value)
        advantages[:, t] = torch.where(on, carry, 0.0)
    return advantages


def ppo_policy_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: float = 0.2) -> Tensor:
    """-min(ρA, clip(ρ, 1 ± clip)A) of each token, ρ = π/π_old; to be minimised (Schulman et al. 2017; paper §3.2.3)."""
    ratio = (logprobs - old_logprobs).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1.0 - clip, 1.0 + clip) * advantages)


def ppo_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float = 0.2) -> Tensor:
    """½·max((V - R)², (clip(V, V_old ± clip) - R)²) of each token; to be minimised (the paper is silent)."""
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square())
