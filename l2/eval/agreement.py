"""Agreement between raters beyond chance: Gwet's AC1 and AC2 (Gwet 2008; 2014, §4; paper §3.4.2, §4.4).

In closed form: irrCAC, the library for it, holds numpy below version 2. The tests hold its figures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from l2.eval.metrics import Estimate

Weights = npt.NDArray[np.float64]


def ordinal(categories: int) -> Weights:
    """w_kl = 1 - C(|k - l| + 1, 2) / C(q, 2) [q, q]: how much two ordered categories agree (Gwet 2014, §3.5).

    The paper doesn't tell the weights of its AC2; these, which need nothing but an order, are ours.
    """
    k = np.arange(categories)
    distance = np.abs(k[:, None] - k)
    weights: Weights = 1 - distance * (distance + 1) / (categories * (categories - 1))
    return weights


def gwet(ratings: Sequence[Sequence[int]], weights: Weights) -> Estimate | None:
    """AC2 = (p_a - p_e) / (1 - p_e) of each item's ratings, counted from 0; AC1 where `weights` is the identity.

    Items may have different numbers of raters; those with one tell what is common, not what is agreed on. The
    standard error is Gwet's, over items (2014, eq. 5.5.1). None where no item has two ratings.
    """
    q, n = len(weights), len(ratings)
    counts_NQ = np.zeros((n, q))
    for i, given in enumerate(ratings):
        np.add.at(counts_NQ[i], list(given), 1)
    raters_N = counts_NQ.sum(1)
    several_N = raters_N > 1
    if not several_N.any():
        return None
    agreed_N = (counts_NQ * (counts_NQ @ weights - 1)).sum(1) / np.maximum(raters_N * (raters_N - 1), 1)
    observed = agreed_N[several_N].mean()
    prevalence_Q = (counts_NQ / raters_N[:, None]).mean(0)
    scale = weights.sum() / (q * (q - 1))
    chance = scale * (prevalence_Q * (1 - prevalence_Q)).sum()
    value = (observed - chance) / (1 - chance)
    if n < 2:
        return Estimate(float(value), None, n)
    each_N = n / several_N.sum() * (agreed_N - chance * several_N) / (1 - chance)
    chance_N = scale * counts_NQ @ (1 - prevalence_Q) / raters_N
    linear_N = each_N - 2 * (1 - value) * (chance_N - chance) / (1 - chance)
    return Estimate(float(value), float(np.sqrt(((linear_N - value) ** 2).sum() / (n * (n - 1)))), n)
