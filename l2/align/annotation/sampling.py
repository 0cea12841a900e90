"""Two models (or temperatures) that answer prompts, ahead of the people who compare their answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from l2.align.annotation.board import Answer, Item
from l2.align.annotation.desk import Desk
from l2.files.errors import L2Error
from l2.files.jsonl import Record
from l2.generate.engine import Sampler, Sampling
from l2.generate.samples import prompt_ids, sample_answers
from l2.tokens.tokenizer import Tokenizer

TRIES = 4  # before two models count as saying the same (ours)
AHEAD = 8  # items whose answers wait for people (ours)
SAME = "both models gave the same answer"


@dataclass(frozen=True)
class Variant:
    """A model, and how it is sampled from; `name` is put down in the preferences."""

    model: Sampler
    tokenizer: Tokenizer
    sampling: Sampling
    name: str

    def answer(self, items: Sequence[Item], seed: int) -> list[Answer]:
        """An answer to each item's conversation. Raises BadInput for one after which no answer fits."""
        records = [Record({"prompt": item.messages, "id": item.id}, f"prompt {item.id}") for item in items]
        rows = [prompt_ids(self.tokenizer, record) for record in records]
        sampling = replace(self.sampling, seed=seed)
        samples = sample_answers(self.model, self.tokenizer, records, rows, sampling, name=self.name)
        return [Answer(one["response"], self.name, self.sampling.temperature) for (one,) in samples]


@dataclass(frozen=True)
class Couple:
    """The two variants whose answers are compared."""

    a: Variant
    b: Variant
    seed: int = 0

    def answers(self, items: Sequence[Item]) -> list[tuple[Answer, Answer] | None]:
        """Two different answers to each item, or None where the variants said the same TRIES times.

        The same items with the same seed get the same answers. Raises BadInput as `Variant.answer`.
        """
        found: list[tuple[Answer, Answer] | None] = [None] * len(items)
        for attempt in range(TRIES):
            open_ = [i for i, pair in enumerate(found) if pair is None]
            if not open_:
                break
            asked = [items[i] for i in open_]
            # Other seeds for b: from one model at one temperature the same seed would draw the same answer.
            first, second = (self.seed + 2 * attempt + side for side in (0, 1))
            both = zip(self.a.answer(asked, first), self.b.answer(asked, second), strict=True)
            for i, (a, b) in zip(open_, both, strict=True):
                if a.text != b.text:
                    found[i] = (a, b)
        return found

    def fill(self, items: Sequence[Item]) -> None:
        """Put down the answers of items, or why there are none."""
        try:
            pairs = self.answers(items)
        except L2Error as error:
            if len(items) > 1:  # one of them may be too long; the others are not to blame
                for item in items:
                    self.fill([item])
                return
            items[0].failed = str(error)
            return
        for item, pair in zip(items, pairs, strict=True):
            item.answers, item.failed = pair, "" if pair else SAME


class Ahead(threading.Thread):
    """Samples what the desk's board wants, in the background, until `stop`. `on_error` hears what ends it early."""

    def __init__(self, desk: Desk, couple: Couple, on_error: Callable[[BaseException], None]) -> None:
        super().__init__(name="sampling", daemon=True)
        self.desk, self.couple, self.on_error = desk, couple, on_error
        self._stopped, self._wake = threading.Event(), threading.Event()

    def run(self) -> None:
        """Answer one item after another: whoever waits for their own prompt waits for one other at most."""
        try:
            while not self._stopped.is_set():
                self._wake.clear()
                with self.desk.lock:
                    wanted = self.desk.board.wanted(AHEAD)
                if wanted:
                    self.couple.fill(wanted[:1])
                else:
                    self._wake.wait()
        except BaseException as error:
            self.on_error(error)

    def wake(self) -> None:
        """Look again: somebody has moved on."""
        self._wake.set()

    def stop(self) -> None:
        """End after the answers that are being written."""
        self._stopped.set()
        self._wake.set()
