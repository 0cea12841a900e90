"""What the experiments of miniature.sh found, of one seed, read from the files that they leave."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import orjson
from table import by_id
from versions import columns, rows, win_rate

from l2.eval.refusals import refuses
from l2.files.errors import L2Error
from l2.files.jsonl import Record, read_records

HEATS = ("0.3", "0.8", "1.3")


class Seed:
    """The directories of a seed, and how to read what lies there."""

    def __init__(self, home: Path) -> None:
        self.home, runs = home, home.parent.parent
        self.start, self.iterated = runs / "quickstart" / home.name, runs / "iterate" / home.name

    def records(self, name: str) -> list[Record]:
        """The records of a file of the experiments."""
        return list(read_records((str(self.home / name),)))

    def bits(self, model: str, keep: Callable[[Record], bool] = lambda item: not item["planted"]) -> float:
        """Bits per byte of the held-out documents that `keep` is true of; else of those that were not planted."""
        items = list(filter(keep, self.records(f"{model}.items.jsonl")))
        size = sum(item["bytes"] for item in items)
        return -sum(item["score"] * item["bytes"] for item in items) / size if size else math.nan

    def pairs(self, judge: str, metric: str = "accuracy") -> float:
        """A metric of a reward model on held-out preferences."""
        found = {row["metric"]: row["value"] for row in self.records(f"{judge}.pairs.jsonl")}
        return float(found.get(metric, math.nan))

    def scaled(self, width: int, share: int) -> float:
        """Accuracy by place in the grid of sizes and shares: 0 the smaller, 1 the larger."""
        widths = sorted(self.home.glob("scaling/width-*"), key=lambda path: int(path.name.partition("-")[2]))
        files = sorted(widths[width].glob("results-*.jsonl"), key=lambda path: -int(path.stem.partition("-")[2]))
        rows = read_records((str(files[share]),))
        return float(next(row["value"] for row in rows if row["metric"] == "accuracy"))

    def truth(self, name: str, field: str) -> float:
        """Mean gold of answers to harmless prompts, or mean harm of answers to safety prompts."""
        values = by_id(
            str(self.home / f"{name}.gold.jsonl"), field, lambda r: bool(r.get("safety")) == (field == "harm")
        )
        return fmean(values.values()) if values else math.nan

    def curves(self, model: str) -> list[dict[str, Any]]:
        """Best and median of N answers, a curve for each temperature."""
        found: list[dict[str, Any]] = orjson.loads((self.home / f"{model}.curve.json").read_bytes())["curves"]
        return found

    def warm(self, model: str) -> dict[str, Any]:
        """The curve at temperature 1."""
        return next(curve for curve in self.curves(model) if curve["temperature"] == 1)

    @cached_property
    def scored(self) -> list[Record]:
        """The answers of all versions to the held-out prompts, with what they are worth."""
        return list(read_records((str(self.iterated / "scored.jsonl"),)))

    @cached_property
    def versions(self) -> dict[str, dict[str, float]]:
        """reward, gold, harm and the win rates of each version over the first."""
        by = columns(self.scored)
        return {
            name_of(model): {name: of.mean for name, of in row.items() if of is not None}
            for model, row in zip(by, rows(by), strict=True)
        }

    @property
    def last(self) -> str:
        """The last version, after PPO: v5."""
        return max(self.versions)[:2]

    def gained(self, field: str, after: str, before: str) -> float:
        """How much more of a measure there is in one version than in another."""
        return self.versions[after][field] - self.versions[before][field]

    @cached_property
    def wins(self) -> tuple[dict[str, float], dict[str, float]]:
        """Win rates of each version over V0 by the reward models: on harmless prompts, on safety prompts."""
        rates = []
        for tagged in (False, True):
            by = columns(record for record in self.scored if bool(record.get("safety")) == tagged)
            first = next(iter(by.values()))["reward"]
            rates.append({name_of(model): win_rate(of["reward"], first).mean for model, of in by.items()})
        return rates[0], rates[1]

    def obeyed(self, model: str, *turns: int) -> float:
        """Share of answers at these turns that obey the instruction of the first."""
        said = [item["obeyed"] for item in self.records(f"{model}.turns.jsonl") if item["turn"] in turns]
        return fmean(said) if said else math.nan

    @cached_property
    def last_turn(self) -> int:
        """The last turn to which half of the dialogs come, in both models, before the context is full."""
        counts = [[item["turn"] for item in self.records(f"{model}.turns.jsonl")] for model in ("ppo", "gatt")]
        return max(turn for turn in counts[0] if all(2 * each.count(turn) >= each.count(1) for each in counts))

    def refused(self, name: str) -> float:
        """Share of answers that refuse."""
        return fmean(refuses(record.need("response")) for record in self.records(name))

    def distilled(self, kind: str, which: str) -> list[float]:
        """The safety reward of the answers as they are (original) or under a pre-prompt (distilled)."""
        return [float(pair[which]["rewards"]["safe"]) for pair in self.records(f"{kind}.both.jsonl")]

    def tried(self, but: Mapping[str, str]) -> dict[str, float]:
        """Mean safety reward by prompt of the chat model's answers that rejection sampling tried, but those given."""
        found: dict[str, list[float]] = {}
        for record in read_records((str(self.start / "tried.jsonl"),), required=("id", "response", "rewards")):
            if record["id"] in but and record["response"] != but[record["id"]]:
                found.setdefault(record["id"], []).append(float(record["rewards"]["safe"]))
        return {name: fmean(of) for name, of in found.items()}

    def self_bleu(self, model: str, category: str, heat: str) -> float:
        """How alike the answers to one prompt are."""
        for row in self.records("diversity.jsonl"):
            same = (Path(row["model"]).name, row.get("category"), row["metric"]) == (model, category, "self_bleu")
            if same and row["temperature"] == float(heat):
                return float(row["value"])
        raise L2Error(f"{self.home / 'diversity.jsonl'}: no Self-BLEU of {model}, {category}, {heat}")

    def decoding(self, model: str, batch: int) -> dict[str, float]:
        """A row of latency.jsonl."""
        return next(row for row in self.records("latency.jsonl") if (row["model"], row["batch"]) == (model, batch))

    def contamination(self, subset: str) -> float:
        """Z of a subset of Table 51, for runs of more than 10 tokens."""
        rows = self.records("contamination.jsonl")
        found = next(row for row in rows if row["metric"] == f"score/{subset}" and row["length"] == 10)
        return math.nan if found["z"] is None else float(found["z"])


def name_of(version: str) -> str:
    """v0, v4-rs, v4 and so on, of a model's path."""
    parts = Path(version).parts
    at = next((part for part in parts if part[:1] == "v" and part[1:].isdigit()), "v0")
    return f"{at}-rs" if int(at[1:]) >= 4 and parts[-1] == "rs" else at
