"""Contenders in turns: a slow minute of the machine hits all of them. Medians over rounds, the least and the most."""

from __future__ import annotations

import re
import statistics
import subprocess
from collections.abc import Callable, Iterable, Mapping
from functools import partial

Run = Callable[[], float]


def rounds(contenders: Mapping[str, Run], count: int) -> dict[str, list[float]]:
    """The rates of each contender, after a first round that warms up and is thrown away."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(count + 1):
        for name, run in contenders.items():
            rate = run()
            if number:
                rates[name].append(rate)
    return rates


def table(title: str, rates: Mapping[str, list[float]], unit: str) -> None:
    """Medians, spread, and the ratio to the best of transformers."""
    theirs = [statistics.median(values) for name, values in rates.items() if name.startswith("transformers")]
    print(f"\n{title} ({unit})")
    for name, values in rates.items():
        middle = statistics.median(values)
        ratio = f"{middle / max(theirs):5.2f} x transformers" if theirs else ""
        print(f"  {name:30} {middle:9,.0f}  [{min(values):,.0f}-{max(values):,.0f}]  {ratio}", flush=True)


def last_number(command: str) -> float:
    """The last number that a program prints: run.c's "achieved tok/s: 123.4" among others."""
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    return float(re.findall(r"\d+(?:\.\d+)?", done.stdout + done.stderr)[-1])


def programs(peers: Iterable[str], **fields: object) -> dict[str, Run]:
    """The contenders of --peer NAME=COMMAND options; {field} in a command becomes its value."""
    runs = {}
    for peer in peers:
        name, _, command = peer.partition("=")
        for field, value in fields.items():
            command = command.replace(f"{{{field}}}", str(value))
        runs[name] = partial(last_number, command)
    return runs
