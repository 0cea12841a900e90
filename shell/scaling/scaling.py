"""What shell/rm-scaling.sh needs beside l2: shapes below nano, a world in small, and the table."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from l2.files.columns import aligned
from l2.files.jsonl import read_records, write_records
from l2.model.checkpoint import new_model, save_model
from l2.tokens.tokenizer import load_tokenizer
from l2.train.presets import PRESETS, ffn_hidden

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
CHANNELS = 32  # of a head, as nano has them
WORDS = ["red", "blue", "warm", "cold", "near", "far", "old", "new", "kind", "plain", "quick", "slow", "soft", "loud"]


@app.command()
def shape(
    tokenizer: Annotated[str, typer.Option(help="tokenizer.model.")],
    dim: Annotated[int, typer.Option(help="Width; everything else keeps nano's proportions.")],
    out: Annotated[str, typer.Option(help="Checkpoint to write.")],
    seed: Annotated[int, typer.Option(help="Of the weights.")] = 0,
) -> None:
    """An untrained model of nano's proportions."""
    vocabulary, nano = load_tokenizer(tokenizer), PRESETS["nano"]
    heads = max(2, dim // CHANNELS)
    config = nano.config(vocabulary.vocab_size, 512)
    config = replace(
        config, dim=dim, n_layers=max(1, dim // 32), n_heads=heads, n_kv_heads=heads // 2, head_dim=dim // heads,
        ffn_dim=ffn_hidden(dim, nano.multiple_of),
    )  # fmt: skip
    save_model(new_model(config, seed), out, vocabulary)


def _preferences(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Pairs of answers whose words have a worth each, compared by Bradley and Terry."""
    draw, worth = random.Random(seed), {word: (i % 7 - 3) / 3 for i, word in enumerate(WORDS)}
    for _ in range(count):
        answers = [[draw.choice(WORDS) for _ in range(6)] for _ in range(2)]
        first, second = (sum(worth[word] for word in answer) for answer in answers)
        if draw.random() > 1 / (1 + math.exp(second - first)):
            answers.reverse()
        gap = abs(first - second)
        rating = ("negligibly", "slightly", "better", "significantly")[(gap > 0.5) + (gap > 1.2) + (gap > 2)]
        texts = {name: " ".join(answer) for name, answer in zip(("chosen", "rejected"), answers, strict=True)}
        if texts["chosen"] != texts["rejected"]:
            yield {"prompt": f"Say what is {draw.choice(WORDS)}.", **texts, "rating": rating}


@app.command()
def world(out: Annotated[str, typer.Option(help="Directory.")]) -> None:
    """A corpus, dialogs and preferences in small, for --smoke."""
    home, pairs = Path(out), list(_preferences(3000, 0))
    write_records(str(home / "documents.jsonl"), [{"text": f"{p['prompt']} {p['chosen']}"} for p in pairs])
    dialogs = [
        {"messages": [{"role": "user", "content": p["prompt"]}, {"role": "assistant", "content": p["chosen"]}]}
        for p in pairs[:100]
    ]
    write_records(str(home / "dialogs.jsonl"), dialogs)
    write_records(str(home / "train.jsonl"), pairs)
    write_records(str(home / "held-out.jsonl"), list(_preferences(500, 1)))


@app.command()
def table(results: list[str]) -> None:
    """Accuracy by model (rows) and share of the data (columns), as Figure 6 draws it."""
    found: dict[str, dict[str, str]] = {}
    for record in read_records(results):
        if record["metric"] == "accuracy":
            row = found.setdefault(Path(record["model"]).parent.name, {})
            row[record["task"]] = f"{record['value']:.3f} ± {record['stderr']:.3f}"
    shares = sorted({share for row in found.values() for share in row}, key=lambda share: -int(share.partition("/")[2]))
    print(
        aligned([["", *shares], *([name, *(row.get(share, "-") for share in shares)] for name, row in found.items())])
    )


if __name__ == "__main__":
    app()
