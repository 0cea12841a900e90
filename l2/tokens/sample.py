"""A sample of lines of bounded size, as a tokenizer learns from (ours: SentencePiece reads all that it is given)."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable
from dataclasses import dataclass

from l2.files.jsonl import Record
from l2.files.progress import OnProgress, ignore
from l2.tokens.tokenizer import LONGEST_LINE, lines_of

Line = tuple[str, str]  # source, text


@dataclass
class Sample:
    """What was drawn, in the order in which it was read, and what it was drawn from. Bytes count no newlines."""

    lines: list[Line]
    bytes: int
    lines_read: int
    bytes_read: int
    skipped: int  # lines over LONGEST_LINE, which nothing is learned from


def sample_lines(
    documents: Iterable[Record], most_bytes: int, seed: int = 0, *, on_progress: OnProgress = ignore
) -> Sample:
    """Draw lines of the documents, each as likely as any other, up to `most_bytes`; all when they are fewer.

    Every line is given a random number when it is read, and those with the smallest numbers are kept, as many as fit:
    a function of the seed and the row of lines, however files cut it. Memory: about 250 bytes a line kept more than
    the text. A document's `source` goes with its lines; "" when it has none. Raises BadInput for one without text.
    """
    number = random.Random(seed).random
    kept: list[tuple[float, int, Line]] = []  # a heap: the largest number, negated, comes first
    bound = 1.0  # lines with this number or more are left out: one of them has not fitted
    held = lines_read = bytes_read = skipped = 0
    for count, record in enumerate(documents, 1):
        source = str(record.get("source") or "")
        for text in lines_of(record.need("text")):
            size = len(text.encode())
            if size > LONGEST_LINE:
                skipped += 1
                continue
            lines_read, bytes_read = lines_read + 1, bytes_read + size
            if (drawn := number()) < bound:
                heapq.heappush(kept, (-drawn, lines_read, (source, text)))
                held += size
            while held > most_bytes:
                largest, _, (_, dropped) = heapq.heappop(kept)
                bound, held = -largest, held - len(dropped.encode())
        on_progress(count, None, f"{skipped:,} lines over {LONGEST_LINE:,} bytes skipped" if skipped else "")
    kept.sort(key=lambda entry: entry[1])
    return Sample([line for _, _, line in kept], held, lines_read, bytes_read, skipped)
