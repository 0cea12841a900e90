"""What the experiments of miniature.sh need beside l2: data cut and planted, and the time of a step of decoding."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Annotated, Any

import typer
import xxhash
from scripts import run
from words import DECLINING

from cmds.options import Inputs, Output
from l2.files.jsonl import Record, read_records, write_records

BATCHES = (1, 64)
CACHED, STEPS, ROUNDS = 200, 16, 7  # tokens in the cache; steps of a measurement; measurements of a model

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def is_planted(record: Record, seed: int) -> bool:
    """Whether this evaluation item is in the half that is planted among the training data."""
    return xxhash.xxh64_intdigest(f"{seed} {record['id']}".encode()) % 2 == 1


@app.command()
def plant(
    documents: Inputs = None, seed: Annotated[int, typer.Option(help="Of the halves.")] = 0, output: Output = "-"
) -> None:
    """The half of the documents that is to be planted."""
    write_records(output, [record for record in read_records(documents or ()) if is_planted(record, seed)])


@app.command()
def scored(
    documents: Inputs = None,
    results: Annotated[str, typer.Option(help="l2 evaluate --samples of the same documents.")] = "-",
    seed: Annotated[int, typer.Option(help="Of the halves.")] = 0,
    output: Output = "-",
) -> None:
    """The documents as samples for `l2 contam`: their text, their score (less is worse), and whether planted."""
    texts = {record["id"]: record for record in read_records(documents or (), required=("id", "text"))}
    write_records(output, [
        {"task": "documents", "id": item["id"], "prompt": texts[item["id"]]["text"]}
        | {"bytes": item["bytes"], "score": -item["bits"] / item["bytes"]}
        | {"planted": is_planted(item, seed), "model": item["model"]}
        for item in read_records((results,), required=("id", "bits", "bytes"))
    ])  # fmt: skip


@app.command()
def dialogs(
    files: Inputs = None,
    safety: Annotated[bool, typer.Option("--safety/--helpful", help="Which of the two kinds.")] = False,
    output: Output = "-",
) -> None:
    """Dialogs that gently decline (safety data), or all others."""
    write_records(output, [record for record in read_records(files or ()) if declines(record) == safety])


def declines(dialog: Record) -> bool:
    """Whether an answer of the dialog declines to dwell on violence."""
    answers = (message["content"].lower() for message in dialog["messages"] if message["role"] == "assistant")
    return any(phrase in answer for answer in answers for phrase in DECLINING)


@app.command()
def adversarial(
    prompts: Inputs = None,
    count: Annotated[int, typer.Option(help="At most.")] = 200,
    category: Annotated[str | None, typer.Option(help="The risk they are said to be of, for its template.")] = None,
    output: Output = "-",
) -> None:
    """Prompts that are tagged as safety prompts, without their topic."""
    tagged = (record for record in read_records(prompts or ()) if record.get("safety"))
    said = {} if category is None else {"category": category}
    write_records(output, [
        {"id": record["id"], "prompt": record["prompt"], "safety": True} | said for record in islice(tagged, count)
    ])  # fmt: skip


@app.command()
def ungated(pairs: Inputs = None, output: Output = "-") -> None:
    """All that `l2 distill-build --all` drew under a pre-prompt and that ended, as dialogs, better or not."""
    write_records(output, [
        {"messages": [_said("user", pair["prompt"]), _said("assistant", pair["distilled"]["response"])]}
        for pair in read_records(pairs or (), required=("distilled",))
        if pair["distilled"]["finish"] == "stop" and pair["distilled"]["response"].strip()
    ])  # fmt: skip


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@app.command()
def longer(
    files: Inputs = None,
    turns: Annotated[int, typer.Option(help="Of each dialog.")] = 20,
    count: Annotated[int, typer.Option(help="Dialogs.")] = 100,
    output: Output = "-",
) -> None:
    """Dialogs of user turns under a constraint, each gone on with by what the next ones ask."""
    records = list(read_records(files or (), required=("messages", "constraint")))
    write_records(output, [
        dict(record) | {"messages": _from(records, at, turns)} for at, record in enumerate(records[:count])
    ])  # fmt: skip


def _from(records: Sequence[Record], at: int, turns: int) -> list[Any]:
    followers: Iterator[Record] = (records[(at + i) % len(records)] for i in range(turns))
    return list(islice(chain.from_iterable(record["messages"] for record in followers), turns))


@app.command()
def latency(models: list[str], output: Output = "-") -> None:
    """Seconds of a step of decoding with CACHED tokens in the cache, models in turn; and the cache's bytes a token."""
    import numpy as np
    import torch

    from l2.generate.decoder import Decoder
    from l2.model.checkpoint import load_language_model
    from l2.model.device import keep_memory, pick_device, use_all_cores

    keep_memory()
    use_all_cores()
    loaded = {name: load_language_model(name, device=pick_device("auto")).bfloat16().eval() for name in models}
    rows = []
    for batch in BATCHES:
        decoders = {name: Decoder(model, batch, CACHED + 1) for name, model in loaded.items()}
        seconds: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(ROUNDS):
            for name, decoder in decoders.items():
                begun = time.perf_counter()
                with torch.inference_mode():
                    for _ in range(STEPS):
                        decoder.step([5] * batch, np.full(batch, CACHED)).sum().item()
                seconds[name].append((time.perf_counter() - begun) / STEPS)
        for name, model in loaded.items():
            c = model.config
            cache = 2 * c.n_layers * c.n_kv_heads * c.head_dim * 2  # keys and values of two bytes
            row = {"model": name, "batch": batch, "seconds": statistics.median(seconds[name][1:])}
            rows.append(row | {"cache_bytes": cache, "parameters": c.parameters})
    write_records(output, rows)


if __name__ == "__main__":
    run(app)
