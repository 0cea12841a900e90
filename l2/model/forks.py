"""Two continuations of one beginning in a row, neither seeing the other, and the last layer for their ends alone.

Exactly what two rows would give, for the price of the beginning once. Letters as in transformer.py; A places asked for.
"""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor

from l2.model.config import ModelConfig
from l2.model.transformer import Where


def at(x_BTD: Tensor, places_BA: Tensor) -> Tensor:
    """[B, A, D]: what stands at places [B, A] of each row."""
    return x_BTD.gather(1, places_BA[:, :, None].expand(-1, -1, x_BTD.shape[2]))


class Forked(Where):
    """Where rows of T tokens fork: what stands from fork[1] on goes on from fork[0] as if nothing were in between.

    fork_B2: both places of each row. asked_BA: whose output alone the last layer computes.
    """

    def __init__(self, config: ModelConfig, length: int, fork_B2: Tensor, asked_BA: Tensor) -> None:
        from_B1, to_B1 = fork_B2.split(1, dim=1)
        slots = torch.arange(length, device=fork_B2.device)
        second_BT = slots >= to_B1
        hidden_BT = (slots >= from_B1) & ~second_BT
        mask = (slots[:, None] >= slots) & ~(second_BT[:, :, None] & hidden_BT[:, None, :])
        super().__init__(config, slots - second_BT * (to_B1 - from_B1), mask[:, None], None)
        self.fork_B2, self.asked_BA, self.last, self.by_documents = fork_B2, asked_BA, config.n_layers - 1, True

    def asking(self, layer: int, x_BTD: Tensor) -> tuple[Tensor, Where]:
        """In the last layer `asked_BA` alone."""
        if layer != self.last:
            return x_BTD, self
        some, B = copy(self), len(x_BTD)
        some.cos, some.sin, some.mask = (
            at(x[:, 0].expand(B, -1, -1), self.asked_BA)[:, None] for x in (self.cos, self.sin, self.mask)
        )
        return at(x_BTD, self.asked_BA), some
