"""Training a reward model: the binary ranking loss with margins, and the safety auxiliary loss (paper §3.2.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from l2.align.losses import ranking_loss, safety_loss
from l2.align.preferences import Pair
from l2.generate.scoring import pad
from l2.model.transformer import ScalarModel
from l2.train.compute import Sums
from l2.train.loop import Micro
from l2.train.order import step_items


def pair_micro(pairs: Sequence[Pair]) -> Micro:
    """A micro-batch of P pairs as rows [2P, T] padded on the right: the chosen answers, then the rejected ones."""
    tokens_BT, lengths = pad([pair.chosen for pair in pairs] + [pair.rejected for pair in pairs])
    tensors = {
        "tokens_BT": tokens_BT,
        "last_B": lengths - 1,
        "margin_P": torch.tensor([pair.margin for pair in pairs]),
        "safe_B": torch.tensor([pair.safe[0] for pair in pairs] + [pair.safe[1] for pair in pairs]),
    }
    return Micro(tensors, float(len(pairs)), int(lengths.sum()))


def final_scores(model: ScalarModel, tokens_BT: Tensor, last_B: Tensor) -> Tensor:
    """Scores [B] at position `last_B` of each row: the EOS that ends the answer."""
    scores_BT: Tensor = model(tokens_BT)
    return scores_BT.gather(1, last_B[:, None]).squeeze(1)


class Ranking:
    """Objective: preference pairs, each seen once an epoch; `aux_weight` scales the safety auxiliary loss."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        batch: int,
        micro: int,
        epochs: int,
        seed: int,
        aux_weight: float = 0.0,
        held_out: Sequence[Pair] = (),
    ) -> None:
        """`batch` pairs a step, `micro` at once."""
        self.pairs, self.batch_size, self.micro, self.seed = pairs, batch, micro, seed
        self.aux_weight = aux_weight
        self.total = epochs * len(pairs)
        self._held_out = self._micros(held_out)

    @property
    def steps(self) -> int:
        """Optimizer steps of all epochs; the last may be smaller."""
        return -(-self.total // self.batch_size)

    def _micros(self, pairs: Sequence[Pair]) -> list[Micro]:
        # Pairs of like length together: less padding, and the sum over the batch is the same.
        ordered = sorted(pairs, key=lambda pair: max(len(pair.chosen), len(pair.rejected)))
        return [pair_micro(ordered[i : i + self.micro]) for i in range(0, len(ordered), self.micro)]

    def batch(self, step: int, rank: int = 0, world: int = 1) -> list[Micro]:
        """The pairs of `step`, see `Objective`."""
        items = step_items(step, self.batch_size, len(self.pairs), self.seed, self.total)
        return self._micros([self.pairs[i] for i in items[rank::world]])

    def validation(self) -> list[tuple[str, list[Micro]]]:
        """All held-out pairs, as one source."""
        return [("", self._held_out)] if self._held_out else []

    def sums(self, model: Any, tensors: Mapping[str, Tensor]) -> Sums:
        """Summed over pairs: the loss, pairs ranked right (a tie counts half), and the auxiliary loss."""
        scores_B = final_scores(model, tensors["tokens_BT"], tensors["last_B"])
        chosen_P, rejected_P = scores_B.chunk(2)
        loss = ranking_loss(chosen_P, rejected_P, tensors["margin_P"]).sum()
        right = (chosen_P > rejected_P).sum() + 0.5 * (chosen_P == rejected_P).sum()
        sums: Sums = {"loss": loss, "accuracy": right}
        labelled = tensors["safe_B"] >= 0
        if self.aux_weight:  # 0 where no answer is labelled
            aux = safety_loss(scores_B[labelled], tensors["safe_B"][labelled]).sum()
            sums |= {"loss": loss + self.aux_weight * aux, "safety_loss": aux.detach()}
        return sums
