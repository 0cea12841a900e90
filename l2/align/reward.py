"""Training a reward model: the binary ranking loss with margins, and the safety auxiliary loss (paper §3.2.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from l2.align.losses import ranking_loss, safety_loss
from l2.align.preferences import Pair
from l2.generate.reading import common_prefix
from l2.generate.scoring import pad
from l2.model.forks import Forked
from l2.model.transformer import ScalarModel
from l2.train.compute import Sums
from l2.train.loop import Micro
from l2.train.order import step_items


def shared(pair: Pair, dim: int) -> int:
    """How many tokens both answers of a pair begin with, or 0 where reading those once would cost more than it saves.

    A token costs a layer about 12·D² multiplications and additions, and looking at another 2·D. In one row, prompt,
    chosen, rejected, the second answer's look at the first is computed, and then left out (ours).
    """
    same = len(common_prefix([pair.chosen, pair.rejected]))
    chosen, rejected = len(pair.chosen) - same, len(pair.rejected) - same
    return same if 2 * chosen * rejected < same * (same + 12 * dim) else 0


def pair_micro(pairs: Sequence[Pair], dim: int) -> Micro:
    """A micro-batch of P pairs as rows [B, T] padded on the right, for a model of width `dim`.

    A pair is a row, the prompt, the chosen answer, the rejected answer, `fork_B2` telling where each begins (see
    `Forked`), or two rows where its answers share too little. `ends_BT` is True where an answer ends and is scored,
    twice a pair, the chosen one's first.
    """
    rows: list[list[int]] = []
    forks: list[tuple[int, int]] = []
    ends: list[list[int]] = []
    for pair in pairs:
        same, chosen, rejected = shared(pair, dim), len(pair.chosen), len(pair.rejected)
        if same:
            rows.append(pair.chosen + pair.rejected[same:])
            forks.append((same, chosen))
            ends.append([chosen - 1, len(rows[-1]) - 1])
        else:
            rows += [pair.chosen, pair.rejected]
            forks += [(0, chosen), (0, rejected)]
            ends += [[chosen - 1], [rejected - 1]]
    tokens_BT, lengths = pad(rows)
    ends_BT = torch.zeros(tokens_BT.shape, dtype=torch.bool)
    for b, places in enumerate(ends):
        ends_BT[b, places] = True
    tensors = {
        "tokens_BT": tokens_BT,
        "fork_B2": torch.tensor(forks),
        "ends_BT": ends_BT,
        "margin_P": torch.tensor([pair.margin for pair in pairs]),
        "safe_P2": torch.tensor([pair.safe for pair in pairs]),
    }
    return Micro(tensors, float(len(pairs)), int(lengths.sum()))


def final_scores(model: ScalarModel, tensors: Mapping[str, Tensor]) -> Tensor:
    """Scores [P, 2] of the chosen and the rejected answers of `pair_micro`, at the EOS that ends each."""
    where = Forked(model.config, tensors["fork_B2"], tensors["ends_BT"])
    scores_A1: Tensor = model.score(model.model(tensors["tokens_BT"], where))
    return scores_A1.float().view(-1, 2)


class Ranking:
    """Objective: preference pairs, each seen once an epoch; `aux_weight` scales the safety auxiliary loss."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        batch: int,
        micro: int,
        epochs: int,
        seed: int,
        dim: int,
        aux_weight: float = 0.0,
        held_out: Sequence[Pair] = (),
    ) -> None:
        """`batch` pairs a step, `micro` at once; `dim` is the model's width."""
        self.pairs, self.batch_size, self.micro, self.seed, self.dim = pairs, batch, micro, seed, dim
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
        return [pair_micro(ordered[i : i + self.micro], self.dim) for i in range(0, len(ordered), self.micro)]

    def batch(self, step: int, rank: int = 0, world: int = 1) -> list[Micro]:
        """The pairs of `step`, see `Objective`."""
        items = step_items(step, self.batch_size, len(self.pairs), self.seed, self.total)
        return self._micros([self.pairs[i] for i in items[rank::world]])

    def validation(self) -> list[tuple[str, list[Micro]]]:
        """All held-out pairs, as one source."""
        return [("", self._held_out)] if self._held_out else []

    def sums(self, model: Any, tensors: Mapping[str, Tensor]) -> Sums:
        """Summed over pairs: the loss, pairs ranked right (a tie counts half), and the auxiliary loss."""
        scores_P2 = final_scores(model, tensors)
        chosen_P, rejected_P = scores_P2.unbind(1)
        loss = ranking_loss(chosen_P, rejected_P, tensors["margin_P"]).sum()
        right = (chosen_P > rejected_P).sum() + 0.5 * (chosen_P == rejected_P).sum()
        sums: Sums = {"loss": loss, "accuracy": right}
        labelled = tensors["safe_P2"] >= 0
        if self.aux_weight:  # 0 where no answer is labelled
            aux = safety_loss(scores_P2[labelled], tensors["safe_P2"][labelled]).sum()
            sums |= {"loss": loss + self.aux_weight * aux, "safety_loss": aux.detach()}
        return sums
