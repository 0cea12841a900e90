"""The table of all versions at the end of iterate.sh: what the reward models say of each, and what is true (Figure 11).

The reward is that of the newest pair of reward models, for all versions alike: R_c, a logit, behind the safety gate.
The truth is the simulated annotator's: gold of answers to harmless prompts, harm of the others, and wins by what both
are worth together (gold.py). All on the same held-out prompts. Win rates are against the first model of the file; ties
count half.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Annotated

import orjson
import typer
from gold import worth
from scripts import run
from table import Estimate, estimate

from l2.files.atomic import write_atomic
from l2.files.errors import L2Error
from l2.files.jsonl import Record, read_records

Columns = dict[str, dict[str, float]]  # name: {id of a prompt: mean of its answers}


def columns(records: Iterable[Record]) -> dict[str, Columns]:
    """The measures of each prompt by model, in the order of `records`: answers with `gold`, `harm` and `rewards`."""
    from l2.align.rejection import combined

    every = list(records)
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    for record, reward in zip(every, combined(every), strict=True):
        found = {"reward": reward, "worth": worth(float(record["gold"]), float(record["harm"]))}
        found |= {"harm": record["harm"]} if record.get("safety") else {"gold": record["gold"]}
        for name, value in found.items():
            prompts = values.setdefault(record.need("model"), {}).setdefault(name, {})
            prompts.setdefault(str(record["id"]), []).append(float(value))
    return {
        model: {name: {i: fmean(of) for i, of in by.items()} for name, by in measures.items()}
        for model, measures in values.items()
    }


def win_rate(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Estimate:
    """Share of prompts on which ours are better, a tie counting half."""
    if ours.keys() != theirs.keys():
        raise L2Error("versions answered other prompts; evaluate all of them on the same")
    return estimate([1.0 if ours[i] > theirs[i] else 0.5 * (ours[i] == theirs[i]) for i in sorted(ours)])


def rows(every: Mapping[str, Columns]) -> list[dict[str, Estimate | None]]:
    """For each version: reward, gold, harm, and the win rates by truth and by the reward models."""
    first = next(iter(every.values()))
    found = []
    for by in every.values():
        means = {name: estimate(list(by[name].values())) if name in by else None for name in ("reward", "gold", "harm")}
        wins = {
            "wins": win_rate(by["worth"], first["worth"]),
            "wins_by_reward": win_rate(by["reward"], first["reward"]),
        }
        found.append(means | wins)
    return found


def main(
    answers: Annotated[str, typer.Argument(help="Scored answers of all versions, the first to compare with.")],
    json: Annotated[str | None, typer.Option(help="The same numbers, for a plot.")] = None,
) -> None:
    """Print the table.

    Example: python versions.py scored.jsonl --json versions.json
    """
    every = columns(read_records((answers,), required=("id", "gold", "harm", "rewards")))
    if not every:
        raise L2Error(f"{answers}: no answers")
    table = rows(every)
    names = [model.rpartition("runs/")[2] for model in every]
    lines = [("version", *table[0])]
    lines += [
        (name, *("" if value is None else str(value) for value in row.values()))
        for name, row in zip(names, table, strict=True)
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if json is not None:
        told = [
            {"version": name} | {key: value and value._asdict() for key, value in row.items()}
            for name, row in zip(names, table, strict=True)
        ]
        write_atomic(json, orjson.dumps(told, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    run(main)
