"""Supervised fine-tuning on dialogs: only the assistant's words are learned (paper §3.1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from l2.files.errors import BadInput
from l2.files.jsonl import Record
from l2.tokens.chat import encode_dialog, messages_of
from l2.tokens.packing import pack, row_positions
from l2.tokens.tokenizer import Tokenizer
from l2.train.compute import Sums
from l2.train.loop import Micro
from l2.train.order import step_items
from l2.train.pretrain import packed_loss


@dataclass(frozen=True)
class Example:
    """One dialog as ids [T]; `learn` [T] is True on the tokens whose prediction is trained."""

    ids: list[int]
    learn: list[bool]


def encode_examples(records: Iterable[Record], tokenizer: Tokenizer, seq_len: int) -> tuple[list[Example], int]:
    """Dialogs as examples of at most `seq_len` tokens, and how many had to be cut to fit.

    Raises BadInput for a dialog with nothing to learn in its first `seq_len` tokens.
    """
    examples, cut = [], 0
    for record in records:
        dialog = encode_dialog(tokenizer, messages_of(record, "messages"))
        cut += len(dialog.ids) > seq_len
        example = Example(dialog.ids[:seq_len], dialog.learn[:seq_len])
        if not any(example.learn):
            found = f"no assistant token to learn in the first {seq_len} tokens"
            raise BadInput(record.where, found, "an assistant message with weight 1 that fits")
        examples.append(example)
    return examples, cut


def packed_micro(rows: Sequence[Sequence[Example]], seq_len: int) -> Micro:
    """A micro-batch of rows [B, T], each of several examples that don't see one another."""
    width = max(sum(len(e.ids) for e in row) for row in rows)
    shape = (len(rows), min(width, seq_len))
    tensors = {name: torch.zeros(shape, dtype=torch.long) for name in ("tokens_BT", "positions_BT")}
    tensors["targets_BT"] = torch.full(shape, -1)
    count = 0
    for b, row in enumerate(rows):
        ids = torch.tensor([token for example in row for token in example.ids])
        # BOS is learned by nobody, and so no example by the one before it
        learn = torch.tensor([wanted and at > 0 for example in row for at, wanted in enumerate(example.learn)])
        positions = row_positions([len(example.ids) for example in row])
        tensors["tokens_BT"][b, : len(ids)] = ids
        tensors["positions_BT"][b, : len(ids)] = torch.from_numpy(positions)
        tensors["targets_BT"][b, : len(ids) - 1] = torch.where(learn, ids, -1)[1:]
        count += int(learn.sum())
    return Micro(tensors, float(count), sum(len(e.ids) for row in rows for e in row))


class FineTuning:
    """Objective: examples packed into rows of `seq_len`; each row is seen once an epoch."""

    def __init__(
        self,
        examples: Sequence[Example],
        seq_len: int,
        batch: int,
        micro: int,
        epochs: int,
        seed: int,
        held_out: Sequence[Example] = (),
    ) -> None:
        """`batch` rows a step, `micro` at once."""
        self.seq_len, self.batch_size, self.micro, self.seed = seq_len, batch, micro, seed
        self.rows = self._pack(examples)
        self.total = epochs * len(self.rows)
        self._held_out = self._micros(self._pack(held_out)) if held_out else []

    @property
    def steps(self) -> int:
        """Optimizer steps of all epochs; the last may be smaller."""
        return -(-self.total // self.batch_size)

    def _pack(self, examples: Sequence[Example]) -> list[list[Example]]:
        return [[examples[i] for i in row] for row in pack([len(e.ids) for e in examples], self.seq_len)]

    def _micros(self, rows: Sequence[Sequence[Example]]) -> list[Micro]:
        return [packed_micro(rows[i : i + self.micro], self.seq_len) for i in range(0, len(rows), self.micro)]

    def batch(self, step: int, rank: int = 0, world: int = 1) -> list[Micro]:
        """The rows of `step`, see `Objective`."""
        items = step_items(step, self.batch_size, len(self.rows), self.seed, self.total)
        return self._micros([self.rows[i] for i in items[rank::world]])

    def validation(self) -> list[Micro]:
        """All held-out rows."""
        return self._held_out

    def sums(self, model: Any, tensors: Mapping[str, Tensor]) -> Sums:
        """The summed loss of the learned tokens, in nats."""
        return packed_loss(model, tensors)
