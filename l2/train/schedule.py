"""Learning-rate schedules: functions of the step alone."""

from __future__ import annotations

import math


def cosine(step: int, steps: int, peak: float, warmup: int, floor: float = 0.1) -> float:
    """Learning rate of `step` (from 0): linear warm-up, then a cosine that ends at `floor` of the peak (paper §2.2)."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - 1 - warmup)
    return peak * (floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done))))


def warmup_of(steps: int, share: float, least: int = 5) -> int:
    """Warm-up steps: a share of all steps but at least `least` (paper A.3.4: 3 % and 5), never the whole run."""
    return min(max(least, round(share * steps)), max(1, steps // 2))
