"""Agreement between raters beyond chance: Gwet's AC1 and AC2 (Gwet 2008; 2014, ch. 3 to 6; paper §3.4.2, §4.4).

In closed form: irrCAC, the library for it, brings numpy 1 and scipy 1.12. The tests hold its figures.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Agreement(NamedTuple):
    """The coefficient, its standard error over items (None for one item), and how many items."""

    value: float
    stderr: float | None
    n: int


def gwet(counts_IK: npt.NDArray[np.float64], *, ordered: bool = False) -> Agreement | None:
    """(p_a - p_e) / (1 - p_e): AC1 or, for `ordered` categories, AC2 with quadratic weights.

    counts_IK: how many raters put item i into category k, at least one each. Items of one rating tell what is common,
    not what is agreed on; None where no item has two. The paper doesn't tell the weights of its AC2: these are ours.
    """
    n, q = counts_IK.shape
    k = np.arange(q)
    weights_KK = 1.0 - (k[:, None] - k) ** 2 / (q - 1) ** 2 if ordered else np.eye(q)
    raters_I = counts_IK.sum(1)
    several_I = raters_I > 1
    if not several_I.any():
        return None
    agreed_I = (counts_IK * (counts_IK @ weights_KK - 1)).sum(1) / np.maximum(raters_I * (raters_I - 1), 1)
    shares_K = (counts_IK / raters_I[:, None]).mean(0)
    scale = weights_KK.sum() / (q * (q - 1))
    chance = scale * (shares_K * (1 - shares_K)).sum()
    value = float((agreed_I[several_I].mean() - chance) / (1 - chance))
    if n < 2:
        return Agreement(value, None, n)
    # Gwet 2014, eq. 5.5.1: what each item adds to the coefficient, through p_a and through p_e
    each_I = n / several_I.sum() * (agreed_I - chance * several_I) / (1 - chance)
    chance_I = scale * counts_IK @ (1 - shares_K) / raters_I
    linear_I = each_I - 2 * (1 - value) * (chance_I - chance) / (1 - chance)
    return Agreement(value, float(np.sqrt(((linear_I - value) ** 2).sum() / (n * (n - 1)))), n)
