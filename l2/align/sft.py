"""Supervised fine-tuning on dialogs: only the assistant's words are learned (paper §3.1)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from l2.align.examples import Example, Examples
from l2.files.errors import UsageError
from l2.tokens.packing import Rows, evened, pack, row_positions
from l2.train.compute import Sums
from l2.train.loop import Micro
from l2.train.order import epoch_order, shuffled
from l2.train.pretrain import token_losses

EVEN = 32  # rows are padded to a multiple: few shapes, for the reason that `evened` tells (ours)


class Source(NamedTuple):
    """Dialogs of one file, and how many times a pass over the data reads them."""

    examples: Examples
    epochs: float = 1.0


def visits(size: int, epochs: float, seed: int, source: int, number: int) -> npt.NDArray[np.int64]:
    """Which of `size` dialogs pass `number` (from 0) reads, each as often as it does, sorted.

    Passes go round a permutation in a circle, `epochs` · size dialogs each on average: every dialog is read
    passes · epochs times, rounded down or up. Ours, as pretraining's mix.
    """
    first, last = (round(done * epochs * size) for done in (number, number + 1))
    return np.sort(shuffled(np.arange(first, last) % size, size, seed, source, kind=1))


def packed_micro(rows: Sequence[Sequence[Example]], seq_len: int) -> Micro:
    """A micro-batch of rows [B, T], each of several examples that don't see one another."""
    width = max(sum(len(e.ids) for e in row) for row in rows)
    shape = (len(rows), min(-(-width // EVEN) * EVEN, seq_len))
    tokens_BT, positions_BT = (np.zeros(shape, np.int64) for _ in range(2))
    targets_BT = np.full(shape, -1)
    for b, row in enumerate(rows):
        ids = np.concatenate([example.ids for example in row])
        learn = np.concatenate([example.learn for example in row])
        positions = row_positions([len(example.ids) for example in row])
        tokens_BT[b, : len(ids)] = ids
        positions_BT[b, : len(ids)] = positions
        # BOS is learned by nobody, and so no example by the one before it
        targets_BT[b, : len(ids) - 1] = np.where(learn & (positions > 0), ids, -1)[1:]
    wanted_BT = evened(targets_BT >= 0)
    arrays = {"tokens_BT": tokens_BT, "positions_BT": positions_BT, "targets_BT": targets_BT, "wanted_BT": wanted_BT}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return Micro(tensors, float((targets_BT >= 0).sum()), sum(len(e.ids) for row in rows for e in row))


class FineTuning:
    """Objective: dialogs packed into rows of `seq_len`, in `epochs` passes over all sources, each in its own order."""

    def __init__(
        self,
        sources: Sequence[Source],
        seq_len: int,
        batch: int,
        micro: int,
        epochs: int,
        seed: int,
        held_out: Mapping[str, Sequence[Example]] | None = None,
    ) -> None:
        """`batch` rows a step, `micro` at once; held_out: at least one dialog of each source that is named.

        Raises UsageError where the sources' epochs are so few that no dialog is read.
        """
        self.sources, self.seq_len, self.batch_size, self.micro, self.seed = sources, seq_len, batch, micro, seed
        self._first = [0, *accumulate(len(source.examples) for source in sources)]
        lengths = np.concatenate([source.examples.lengths for source in sources])
        self._passes = [self._packed(lengths, number) for number in range(epochs)]
        self._ends = [0, *accumulate(map(len, self._passes))]
        if not self.rows:
            raise UsageError(f"--mix: so small a share of {len(lengths):,} dialogs that none is read")
        self._held_out = held_out or {}

    @property
    def rows(self) -> int:
        """Packed rows of all passes together."""
        return self._ends[-1]

    @property
    def steps(self) -> int:
        """Optimizer steps of all passes; the last may be smaller."""
        return -(-self.rows // self.batch_size)

    def _packed(self, lengths: npt.NDArray[np.int64], number: int) -> Rows:
        """One pass over the data: dialogs, numbered through all sources, as they stand in its rows."""
        of_source = (
            first + visits(len(examples), epochs, self.seed, source, number)
            for source, (first, (examples, epochs)) in enumerate(zip(self._first, self.sources, strict=False))
        )
        read = np.concatenate([*of_source])
        rows = pack(lengths[read], self.seq_len)
        return Rows(read[rows.indices], rows.ends)

    def _example(self, dialog: int) -> Example:
        source = bisect_right(self._first, dialog) - 1
        return self.sources[source].examples[dialog - self._first[source]]

    def _row(self, number: int) -> list[Example]:
        """Row `number` of all passes; the rows of a pass come in the order of its epoch."""
        done = bisect_right(self._ends, number) - 1
        rows = self._passes[done]
        place = epoch_order(len(rows), self.seed, done)[number - self._ends[done]]
        return [self._example(int(dialog)) for dialog in rows[place]]

    def _micros(self, rows: Sequence[Sequence[Example]]) -> list[Micro]:
        # Rows of like length together: less padding, and the sum over the batch is the same.
        ordered = sorted(rows, key=lambda row: sum(len(example.ids) for example in row))
        return [packed_micro(ordered[i : i + self.micro], self.seq_len) for i in range(0, len(ordered), self.micro)]

    def batch(self, step: int, rank: int = 0, world: int = 1) -> list[Micro]:
        """The rows of `step`, see `Objective`."""
        first = step * self.batch_size
        rows = range(first, min(first + self.batch_size, self.rows))[rank::world]
        return self._micros([self._row(i) for i in rows])

    def validation(self) -> Iterator[tuple[str, list[Micro]]]:
        """All held-out dialogs, packed source by source."""
        for name, dialogs in self._held_out.items():
            rows = pack([len(example.ids) for example in dialogs], self.seq_len)
            yield name, self._micros([[dialogs[i] for i in row] for row in rows])

    def sums(self, model: Any, tensors: Mapping[str, Tensor]) -> Sums:
        """The summed loss of the learned tokens, in nats. The last layer and the head pass over the rest."""
        wanted_BT = tensors["wanted_BT"]
        hidden_AD = model.hidden(tensors["tokens_BT"], tensors["positions_BT"], wanted_BT=wanted_BT)
        targets_A = tensors["targets_BT"][wanted_BT]
        losses_A = token_losses(model, hidden_AD, targets_A.clamp(min=0))
        return {"loss": losses_A[targets_A >= 0].sum()}
