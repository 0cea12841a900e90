"""A decode step captured once for each size and replayed: launching operations on a GPU takes longer than they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

USED = 256  # slots of the cache that are looked at, in steps of so many

Step = Callable[[Tensor, Tensor, int], Tensor]


class Graphs:
    """A step whose inputs and outputs stay where they are: ids and lengths [rows], logits [rows, V].

    A batch is made up to a power of two with rows that hold nothing; what these write is written over when a row
    enters in their place.
    """

    def __init__(self, step: Step, rows: int, length: int, vocab: int, device: torch.device) -> None:
        self.step, self.rows, self.length, self.device = step, rows, length, device
        self.inputs = torch.zeros(2, rows, dtype=torch.long, device=device)
        self.logits = torch.zeros(rows, vocab, device=device)
        self.captured: dict[tuple[int, int], Callable[[], None]] = {}

    def __call__(self, tokens: Sequence[int], lengths_B: np.ndarray, used: int) -> Tensor:
        """Logits [B, V], which the next call overwrites."""
        B = len(tokens)
        size, used = min(self.rows, 1 << (B - 1).bit_length()), min(self.length, -(-used // USED) * USED)
        given = np.zeros((2, size), dtype=np.int64)
        given[0, :B], given[1, :B] = tokens, lengths_B
        self.inputs[:, :size].copy_(torch.from_numpy(given))
        if (size, used) not in self.captured:
            self.captured[size, used] = self._capture(size, used)
        self.captured[size, used]()
        return self.logits[:B]

    def _capture(self, size: int, used: int) -> Callable[[], None]:
        """What computes the logits of the first `size` rows from the inputs; without a GPU, the step itself."""

        def run() -> None:
            self.logits[:size].copy_(self.step(self.inputs[0, :size], self.inputs[1, :size], used))

        if self.device.type != "cuda":
            return run
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):  # libraries ask for their memory at the first call, which can't be captured
            run()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return graph.replay
