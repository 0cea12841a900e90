"""How unusual the loss and the gradient norm of a step are, and what to do about a spike."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

WINDOW, LEAST = 128, 32  # steps that are looked back on, as in llm.c; fewer than LEAST say nothing
SPIKE = 6.0  # standard deviations (ours)


class Usual:
    """The last WINDOW values of a quantity."""

    def __init__(self, values: Iterable[float] = ()) -> None:
        self.values = deque(values, WINDOW)

    def z(self, value: float) -> float:
        """By how many standard deviations `value` lies above the mean of the values before; 0 while they are few."""
        n = len(self.values)
        if n < LEAST:
            return 0.0
        mean = math.fsum(self.values) / n
        spread = math.sqrt(math.fsum((x - mean) ** 2 for x in self.values) / n)
        return (value - mean) / spread if spread else 0.0

    def add(self, value: float) -> None:
        """Count `value` among what is usual."""
        self.values.append(value)
