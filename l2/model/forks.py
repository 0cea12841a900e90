"""Two continuations of one beginning in a row, neither seeing the other.

Exactly what two rows would give, for the price of the beginning once. Letters as in transformer.py.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from l2.model.config import ModelConfig
from l2.model.transformer import Where


class Forked(Where):
    """Where rows fork: what stands from fork[1] on goes on from fork[0] as if nothing were in between.

    fork_B2: both places of each row; wanted_BT: see `hidden` in transformer.py.
    """

    def __init__(self, config: ModelConfig, fork_B2: Tensor, wanted_BT: Tensor) -> None:
        from_B1, to_B1 = fork_B2.split(1, dim=1)
        slots = torch.arange(wanted_BT.shape[1], device=fork_B2.device)
        self.second_BT = slots >= to_B1
        self.first_BT = (slots >= from_B1) & ~self.second_BT
        super().__init__(config, slots - self.second_BT * (to_B1 - from_B1), None, None, wanted_BT)
        self.fork_B2 = fork_B2

    @cached_property
    def mask(self) -> Tensor:
        """bool [B, 1, T, T]: what comes before, but for the second continuation, which does not see the first."""
        across_BTT = self.second_BT[:, :, None] & self.first_BT[:, None, :]
        mask: Tensor = torch.ones_like(across_BTT).tril() & ~across_BTT
        return mask[:, None]
