"""Tokens a second of answers by ranks whose policy is cut into slices: gathered once, or anew for each forward pass.

The paper (§3.2.3) found generating through FSDP some twenty times slower, until the weights were gathered once before
it and let go of after. Three contenders write greedy answers to 32 prompts a rank: l2's engine on gathered weights, and
a plain loop of the transformer with its cache, on gathered weights and through FSDP. What gathering takes counts.
torchrun --nproc-per-node 2 -m tests.bench.ranks
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from l2.align.ppo import twin
from l2.generate.engine import Sampling, generate
from l2.generate.scoring import pad
from l2.model.cache import KVCache
from l2.model.checkpoint import new_model
from l2.model.device import keep_memory
from l2.model.transformer import LanguageModel
from l2.train.compute import Compute, Sums
from l2.train.ranks import Ranks, gathered, start_ranks
from tests.bench.generation import KINDS, SHAPES, rounds, table

PROMPTS, LENGTH = 32, 32  # of a rank, tokens of each

Forward = Callable[[Mapping[str, Any]], Sums]


class Logits:
    """What FSDP is asked for: the logits [B, V] after the last of the tokens."""

    def sums(self, model: LanguageModel, tensors: Mapping[str, Any]) -> Sums:
        """See `Objective`."""
        hidden_BTD = model.hidden(tensors["tokens_BT"], tensors["positions_BT"], cache=tensors["cache"])
        return {"logits_BV": model.head(hidden_BTD[:, -1])}


@torch.no_grad()
def written(forward: Forward, cache: KVCache, tokens_BT: Tensor, new: int) -> list[list[int]]:
    """`new` greedy tokens after each row, one forward pass a token."""
    positions_BT = torch.arange(tokens_BT.shape[1]).expand_as(tokens_BT)
    drawn: list[Tensor] = []
    for _ in range(new):
        logits_BV = forward({"tokens_BT": tokens_BT, "positions_BT": positions_BT, "cache": cache})["logits_BV"]
        assert isinstance(logits_BV, Tensor)
        tokens_BT = logits_BV.argmax(-1, keepdim=True)
        positions_BT = positions_BT[:, -1:] + 1
        drawn.append(tokens_BT)
    answers: list[list[int]] = torch.cat(drawn, 1).tolist()
    return answers


def contenders(ranks: Ranks, shape: str, kind: str, new: int) -> dict[str, Callable[[], list[list[int]]]]:
    """What each writes on this rank."""
    config, dtype = SHAPES[shape], KINDS[kind]
    policy = new_model(config)
    generator = torch.Generator().manual_seed(ranks.rank)
    prompts: Sequence[list[int]] = torch.randint(3, config.vocab_size, (PROMPTS, LENGTH), generator=generator).tolist()
    tokens_BT, _ = pad(prompts)
    fsdp = Compute(policy, Logits(), dtype, mesh=ranks.mesh)
    model = twin(LanguageModel, policy)

    def cache() -> KVCache:
        return KVCache(config, PROMPTS, LENGTH + new, dtype)

    def engine() -> list[list[int]]:
        with gathered(model, dtype):
            answers = generate(model, prompts, range(PROMPTS), Sampling(0.0, max_new_tokens=new), eos_id=-1)
        return [answer.tokens for (answer,) in answers]

    def loop() -> list[list[int]]:
        with gathered(model, dtype):
            return written(partial(Logits().sums, model), cache(), tokens_BT, new)

    return {
        "l2, gathered once": engine,
        "plain loop, gathered once": loop,
        "plain loop through FSDP": lambda: written(fsdp, cache(), tokens_BT, new),
    }


def rate(ranks: Ranks, write: Callable[[], list[list[int]]]) -> float:
    """Tokens a second of all ranks, as long as the slowest takes."""
    start = time.perf_counter()
    tokens = sum(map(len, write()))
    (taken,) = ranks.most([time.perf_counter() - start])
    return ranks.total([tokens])[0] / taken


def main() -> None:
    """All contenders, in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="8M", choices=SHAPES)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new", type=int, default=64, help="tokens of an answer")
    asked = parser.parse_args()
    keep_memory()
    with start_ranks(torch.device("cpu")) as ranks:
        for kind in asked.kinds:
            runs = contenders(ranks, asked.shape, kind, asked.new)
            alike = len({str(write()) for write in runs.values()})
            rates = rounds({name: partial(rate, ranks, write) for name, write in runs.items()}, asked.rounds)
            if ranks.first:
                print(f"\nanswers that differ between contenders: {'none' if alike == 1 else 'some'}")
                table(f"{asked.shape} {kind}, {ranks.world} ranks", rates, "tokens/s")


if __name__ == "__main__":
    main()
