"""The objective of pretraining: the next token of packed documents that don't see one another (paper §2)."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from l2.files.errors import BadInput, UsageError
from l2.model.transformer import LanguageModel
from l2.tokens.shards import Shard
from l2.train.compute import Sums
from l2.train.fused import cross_entropy, measured
from l2.train.loop import Micro
from l2.train.mix import EVERYTHING, Planned, Source, name_of, source_of_each
from l2.train.order import MixedOrder

CHUNK = 4096  # rows of logits held at once
HELD_OUT = 256  # windows of a source that validation reads (ours)


def token_losses(model: LanguageModel, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
    """Cross-entropy [N], in nats, of `targets_N` [N] given hidden states [N, D].

    More than CHUNK rows are computed chunk by chunk and again in the backward pass, so that the logits
    [N, vocab] never stand in memory whole.
    """
    if len(hidden_ND) <= CHUNK:
        return cross_entropy(model, hidden_ND, targets_N)
    pieces = zip(hidden_ND.split(CHUNK), targets_N.split(CHUNK), strict=True)
    return torch.cat([checkpoint(cross_entropy, model, *piece, use_reentrant=False) for piece in pieces])


def measured_losses(model: LanguageModel, hidden_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """`token_losses` [N] to the last bit, and the entropies [N] there, in nats, by one product; without gradients."""
    pieces = zip(hidden_ND.split(CHUNK), targets_N.split(CHUNK), strict=True)
    losses, entropies = zip(*(measured(model, *piece) for piece in pieces), strict=True)
    return torch.cat(losses), torch.cat(entropies)


def packed_loss(model: LanguageModel, tensors: Mapping[str, Tensor]) -> Sums:
    """Summed loss of packed rows; only positions whose `targets_BT` is not -1 are learned.

    tensors: tokens_BT, positions_BT (from 0 in each document), targets_BT.
    """
    hidden = model.hidden(tensors["tokens_BT"], tensors["positions_BT"])
    learned = tensors["targets_BT"] >= 0
    return {"loss": token_losses(model, hidden[learned], tensors["targets_BT"][learned]).sum()}


class Windows:
    """All windows of `length` tokens that the shards hold, one stream after another; the rest at a shard's end
    that fills no window is its last, shorter, window. Every token is the target of exactly one window."""

    def __init__(self, shards: Sequence[Shard], length: int, what_for: str = "to train on") -> None:
        self.shards, self.length = shards, length
        self.counts = [max(0, -(-(shard.token_count - 1) // length)) for shard in shards]  # of each shard
        self._ends = list(accumulate(self.counts))
        if not self._ends or not self._ends[-1]:
            raise BadInput(", ".join(str(s.path) for s in shards), "fewer than 2 tokens", f"tokens {what_for}")

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> np.ndarray:
        """Window `index`: up to length + 1 tokens, the last of which is a target only."""
        shard = bisect_right(self._ends, index)
        first = (index - (self._ends[shard - 1] if shard else 0)) * self.length
        return self.shards[shard].read(first, first + self.length + 1).astype(np.int64)


def window_micro(windows: Sequence[np.ndarray], length: int, bos_id: int, cross_document: bool = False) -> Micro:
    """A micro-batch of windows. BOS starts a document: no query looks past it and no token before it predicts it."""
    B = len(windows)
    rows_BT = np.zeros((B, length + 1), dtype=np.int64)
    for row, window in zip(rows_BT, windows, strict=True):
        row[: len(window)] = window
    real_BT = np.arange(length)[None] < np.array([len(w) - 1 for w in windows])[:, None]
    tokens, targets = rows_BT[:, :-1], rows_BT[:, 1:]
    starts = np.zeros((B, length), dtype=bool) if cross_document else tokens == bos_id
    starts[:, 0] = True
    index = np.arange(length)
    positions = index - np.maximum.accumulate(np.where(starts, index, 0), axis=1)
    learned = real_BT if cross_document else real_BT & (targets != bos_id)
    arrays = {
        "tokens_BT": tokens,
        "positions_BT": positions,
        "targets_BT": np.where(learned, targets, -1),
    }
    tensors = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
    return Micro(tensors, float(learned.sum()), int(real_BT.sum()))


class Pretraining:
    """Objective: token shards in an order that is a function of (seed, step)."""

    def __init__(
        self,
        shards: Sequence[Shard],
        length: int,
        batch: int,
        micro: int,
        seed: int,
        bos_id: int,
        held_out: Sequence[Shard] = (),
        cross_document: bool = False,
        sources: Sequence[Source] = EVERYTHING,
        count_bytes: Callable[[np.ndarray, np.ndarray], int] | None = None,
    ) -> None:
        """`batch` windows a step, `micro` at once. `count_bytes`: of ids and those before them (`ByteCounter`).

        `held_out` shards are told of by the pattern of `sources` that they match, unless that is one for all, or else
        by name. Raises UsageError when a shard is given twice or is of none of the `sources`, or a source has no shard
        or no window to read; BadInput for a held-out one that holds nothing to predict.
        """
        for path, times in Counter(shard.path.resolve() for shard in shards).items():
            if times > 1:
                raise UsageError(f"{path} is given {times} times; --mix reads a source more often")
        source_of = source_of_each(sources, [shard.path for shard in shards])
        by_source = sorted(range(len(shards)), key=source_of.__getitem__)
        self.windows = Windows([shards[i] for i in by_source], length)
        sizes, self._targets = [0] * len(sources), [0] * len(sources)
        for i, count in zip(by_source, self.windows.counts, strict=True):
            sizes[source_of[i]] += count
            self._targets[source_of[i]] += max(0, shards[i].token_count - 1)
        self.sources, self.order = sources, MixedOrder(sizes, [source.epochs for source in sources], seed)
        for source, size, visits in zip(sources, sizes, self.order.visits, strict=True):
            if not visits:
                raise UsageError(f"--mix: {source.epochs:g} epochs of the {size} windows of {source.pattern} are none")
        if len(self.order) < batch:
            found = f"{len(self.order):,} windows of {length} tokens, fewer than one batch of {batch:,}"
            raise UsageError(f"the shards hold {found}; lower --batch-tokens or --seq-len, or give more shards")
        self.batch_size, self.micro, self.bos_id = batch, micro, bos_id
        self.cross_document, self._count_bytes = cross_document, count_bytes
        patterns = sources if len(sources) > 1 else ()
        named: dict[str, list[Shard]] = {}
        for shard in held_out:
            named.setdefault(name_of(shard.path, patterns), []).append(shard)
        self._held_out = {name: Windows(of, length, "to validate on") for name, of in named.items()}
        for name, micros in self.validation():
            if not any(micro.count for micro in micros):
                found = "nothing to predict, starts of documents alone"
                raise BadInput(", ".join(str(shard.path) for shard in named[name]), found, "tokens to validate on")

    def _micros(self, windows: Sequence[np.ndarray]) -> Iterator[Micro]:
        for i in range(0, len(windows), self.micro):
            part = windows[i : i + self.micro]
            yield window_micro(part, self.windows.length, self.bos_id, self.cross_document)

    @property
    def epoch_steps(self) -> int:
        """Steps of one pass: whole batches alone, so that no window is seen more often than its epochs say."""
        return len(self.order) // self.batch_size

    def planned(self, steps: int) -> list[Planned]:
        """What a run of `steps` reads of each source; tokens as if all windows of a source were of its mean length."""
        seen = self.order.visits_in(steps * self.batch_size)
        epochs = [visits / size for visits, size in zip(seen, self.order.sizes, strict=True)]
        tokens = [round(times * targets) for times, targets in zip(epochs, self._targets, strict=True)]
        total = max(1, sum(tokens))
        return [
            Planned(source.pattern, n, n / total, times)
            for source, n, times in zip(self.sources, tokens, epochs, strict=True)
        ]

    def batch(self, step: int, rank: int = 0, world: int = 1) -> list[Micro]:
        """The windows of `step`, see `Objective`."""
        items = self.order.step_items(step, self.batch_size)[rank::world]
        return list(self._micros([self.windows[i] for i in items]))

    def validation(self) -> Iterator[tuple[str, list[Micro]]]:
        """Each held-out source: up to HELD_OUT windows from all over it, the same each time."""
        for name, windows in self._held_out.items():
            count = min(len(windows), HELD_OUT)
            micros = list(self._micros([windows[i * len(windows) // count] for i in range(count)]))
            for micro in micros:
                micro.bytes = self._bytes(micro)
            yield name, micros

    def _bytes(self, micro: Micro) -> float:
        """Of the text that the targets of a micro-batch stand for; 0 where ids don't tell."""
        if self._count_bytes is None:
            return 0.0
        learned = micro.tensors["targets_BT"].numpy() >= 0
        targets, before = (micro.tensors[name].numpy()[learned] for name in ("targets_BT", "tokens_BT"))
        return float(self._count_bytes(targets, before))

    def sums(self, model: Any, tensors: Mapping[str, Tensor]) -> Sums:
        """The summed next-token loss, in nats."""
        return packed_loss(model, tensors)
