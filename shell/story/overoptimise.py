"""Proxy reward and true worth against the distance from the chat model, in √KL (Gao et al. 2022; Bai et al. 2022).

Proxy: R_c of the reward models that chose or rewarded, a logit. Worth: the simulated annotator's gold score less
what its harm costs (gold.py). KL in nats an answer: of the best of N at most log N - (N-1)/N; of a tuned model the
mean of log π(answer) - log π_0(answer) over its answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import orjson
import typer
from gold import worth
from scripts import run
from table import Estimate, estimate, named

from cmds.options import Inputs, Output
from l2.files.atomic import write_atomic
from l2.files.jsonl import Record, open_writer, read_records


class Point(NamedTuple):
    """One policy."""

    how: str
    at: int  # N, or the iteration
    kl: float
    proxy: Estimate
    worth: Estimate


def worths(records: Sequence[Record]) -> list[float]:
    """What each answer is truly worth."""
    return [worth(float(record["gold"]), float(record["harm"])) for record in records]


def proxies(records: Sequence[Record]) -> list[float]:
    """R_c of each answer."""
    from l2.align.rejection import combined

    return combined(records)


def grouped(records: Iterable[Record], field: str) -> dict[Any, list[Record]]:
    """Records by the value of a field, in order."""
    groups: dict[Any, list[Record]] = {}
    for record in records:
        groups.setdefault(record.need(field, (str, int)), []).append(record)
    return groups


def best_of_points(records: Iterable[Record]) -> list[Point]:
    """The best of N = 1, 2, 4, ... of the K answers to each prompt: means over all subsets (l2/align/best_of.py)."""
    from l2.align.best_of import best_of_kl, max_weights, weighted

    ordered = []
    for group in grouped(records, "id").values():
        ordered.append(sorted(zip(proxies(group), worths(group), strict=True)))
    k, points = len(ordered[0]), []
    for n in (2**i for i in range(k.bit_length()) if 2**i <= k):
        weights = max_weights(k, n)
        both = [[weighted(weights, column) for column in zip(*group, strict=True)] for group in ordered]
        proxy, true = (estimate(list(column)) for column in zip(*both, strict=True))
        points.append(Point("best of N", n, best_of_kl(n), proxy, true))
    return points


def policy_point(how: str, at: int, records: Sequence[Record]) -> Point:
    """A tuned model by its own answers, each with its `kl`; errors are over prompts."""
    every = zip(records, proxies(records), worths(records), strict=True)
    values: dict[str, list[tuple[float, float, float]]] = {}
    for record, proxy, true in every:
        values.setdefault(str(record["id"]), []).append((float(record["kl"]), proxy, true))
    means = [[sum(column) / len(of) for column in zip(*of, strict=True)] for of in values.values()]
    kl, proxy, true = (estimate(list(column)) for column in zip(*means, strict=True))
    return Point(how, at, kl.mean, proxy, true)


def points(best_of: str, tuned: Mapping[str, str], ppo: str) -> list[Point]:
    """Everything, by way and distance."""
    needed = ("id", "gold", "harm", "rewards")
    found = best_of_points(read_records((best_of,), required=needed))
    found += [
        policy_point("rejection sampling", int(n), list(read_records((path,), required=(*needed, "kl"))))
        for n, path in tuned.items()
    ]
    steps = grouped(read_records((ppo,), required=(*needed, "kl", "step")), "step")
    return found + [policy_point("PPO", step, records) for step, records in steps.items()]


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def kl(
    reference: Annotated[str, typer.Option(help="π_0.")],
    samples: Inputs = None,
    output: Output = "-",
) -> None:
    """Add to samples the `kl` of their answers: the log-probability they were drawn with less the reference's.

    Example: l2 generate --model v1 --prompts p.jsonl | python overoptimise.py kl --reference sft
    """
    from cmds.sampling import open_policy
    from l2.generate.samples import prompt_ids
    from l2.generate.scoring import loglikelihood

    model, tokenizer = open_policy(reference, "auto", "auto")
    records = list(read_records(samples or (), required=("prompt", "tokens", "logprob")))
    under = loglikelihood(model, [prompt_ids(tokenizer, r) for r in records], [r["tokens"] for r in records])
    with open_writer(output) as writer:
        for record, logprob in zip(records, under, strict=True):
            writer.write(record | {"kl": record["logprob"] - logprob})


@app.command()
def table(
    best_of: Annotated[str, typer.Option(help="All answers of l2 rs-sample, scored by the annotator.")],
    ppo: Annotated[str, typer.Option(help="samples.jsonl of l2 ppo, scored by the annotator.")],
    tuned: Annotated[list[str] | None, typer.Option(help="N=FILE: answers with kl, scored by the annotator.")] = None,
    json: Annotated[str | None, typer.Option(help="The same numbers, for a plot.")] = None,
) -> None:
    """Print proxy and worth by √KL.

    Example: python overoptimise.py table --best-of tried.jsonl --ppo samples.jsonl --json curve.json
    """
    found = points(best_of, named(tuned or (), "--tuned"), ppo)
    print(f"{'':20}{'N or iteration':>16}{'√KL':>8}{'proxy':>20}{'worth':>20}")
    for p in found:
        print(f"{p.how:20}{p.at:16}{math.sqrt(max(0.0, p.kl)):8.2f}{p.proxy!s:>20}{p.worth!s:>20}")
    if json is not None:
        told = [p._asdict() | {"proxy": p.proxy._asdict(), "worth": p.worth._asdict()} for p in found]
        write_atomic(json, orjson.dumps(told, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    run(app)
