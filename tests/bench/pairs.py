"""How fast l2 trains a reward model, beside TRL's RewardTrainer: the same weights, ids and margins. See shell/bench.sh.

A step is 16 pairs of two times 128 tokens, which share the first 64 (--shared 90: as much as in the paper's data, 71 %
by Table 6). TRL needs an environment of its own:
--peer 'trl=VENV/bin/python -m tests.bench.pairs --trl {kind} --shapes {shape} --shared {shared}'. Contenders take turns
within a round; medians of pairs a second over rounds, with the least and the most. VENV/bin/python -m tests.bench.pairs
--parity checks that the two have the same loss and gradients at the first step, and that each loads what the other has
saved.
"""

from __future__ import annotations

import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as cmds/app.py sets it

import torch
from torch import Tensor
from transformers import LlamaForSequenceClassification

from l2.align.preferences import UNLABELLED, Pair
from l2.align.reward import Ranking
from l2.generate.scoring import last_scores
from l2.model.checkpoint import load_model, new_model, save_model, scalar_from
from l2.model.transformer import ScalarModel
from l2.tokens.tokenizer import train_tokenizer
from l2.train.loop import Settings, prepare, update
from tests.bench.beside_trl import be_silent, compare, options, ready, tokenizer
from tests.bench.generation import KINDS, SHAPES, copied
from tests.conftest import sentences

LENGTH, BATCH, STEPS = 128, 16, 12
LR, DECAY = 1e-5, 0.1


def pairs(vocabulary: int, shared: int) -> list[Pair]:
    """Random pairs, as many as the steps take, of which `shared` tokens are common to both answers."""
    ids = torch.randint(3, vocabulary, (STEPS * BATCH, 2, LENGTH), generator=torch.Generator().manual_seed(0))
    ids[:, 1, :shared] = ids[:, 0, :shared]
    ids[:, :, 0], ids[:, :, -1] = 1, 2
    return [Pair(*both, margin=i % 4 / 3, safe=UNLABELLED, rating=None) for i, both in enumerate(ids.tolist())]


def ours(shape: str, kind: str, shared: int) -> float:
    """Pairs a second of l2, fp32 weights, products in `kind`."""
    config = SHAPES[shape]
    objective = Ranking(pairs(config.vocab_size, shared), BATCH, BATCH, 1, 0, config.dim)
    settings = Settings(steps=STEPS, lr=LR, warmup=1, weight_decay=DECAY, dtype=KINDS[kind])
    training = prepare(scalar_from(new_model(config)).train(), objective, settings)
    start = time.perf_counter()
    for _ in range(STEPS):
        update(objective, training, settings)
    return STEPS * BATCH / (time.perf_counter() - start)


def trainer(model: ScalarModel, data: list[Pair], kind: str, directory: str) -> Any:
    """TRL's, at its fastest on a CPU; in bf16 it computes under autocast, with fp32 weights."""
    import trl
    from datasets import Dataset

    be_silent()
    rows = [{"chosen_ids": p.chosen, "rejected_ids": p.rejected, "margin": p.margin} for p in data]
    settings: dict[str, Any] = {
        "output_dir": directory, "max_length": LENGTH, "per_device_train_batch_size": BATCH, "max_steps": STEPS,
        "learning_rate": LR, "weight_decay": DECAY, "use_cpu": True, "bf16": kind == "bf16", "report_to": "none",
        "gradient_checkpointing": False, "logging_steps": 10**6, "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip
    theirs = copied(model, LlamaForSequenceClassification).train()
    config = trl.RewardConfig(**settings)
    return trl.RewardTrainer(theirs, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer())


def theirs(shape: str, kind: str, shared: int) -> float:
    """The same by TRL."""
    config = SHAPES[shape]
    with tempfile.TemporaryDirectory() as directory:
        training = trainer(scalar_from(new_model(config)), pairs(config.vocab_size, shared), kind, directory)
        start = time.perf_counter()
        training.train()
        return STEPS * BATCH / (time.perf_counter() - start)


def parity(shape: str, shared: int) -> None:
    """Both at the first step, in fp32, and what each saved in the hands of the other; asserts 1e-5."""
    config = SHAPES[shape]
    data, model = pairs(config.vocab_size, shared)[:BATCH], scalar_from(new_model(config))
    with tempfile.TemporaryDirectory() as directory:
        training = trainer(model, data, "fp32", directory)
        batch = training.data_collator(
            [{"chosen_ids": p.chosen, "rejected_ids": p.rejected, "margin": p.margin} for p in data]
        )
        loss = training.compute_loss(training.model, batch)
        loss.backward()
        objective = Ranking(data, BATCH, BATCH, 1, 0, config.dim)
        settings = Settings(steps=1, lr=0.0, warmup=1)
        compute = prepare(model.train(), objective, settings).compute
        mine = compute(objective.batch(0)[0].tensors)["loss"]
        assert isinstance(mine, Tensor)
        (mine / BATCH).backward()
        apart = [(w.grad - v.grad).abs().max() for (_, w), (_, v) in both(model, training.model)]
        print(f"loss {mine.item() / BATCH:.7f}, TRL {loss.item():.7f}; gradients at most {max(apart):.1e} apart")
        assert abs(mine.item() / BATCH - loss.item()) < 1e-5 and max(apart) < 1e-5
        trained = train_tokenizer(sentences(2000), 380, Path(directory, "tokenizer.model"))
        save_model(model, Path(directory, "ours"), trained)
        training.save_model(str(Path(directory, "theirs")))
        here = load_model(Path(directory, "theirs"))
        there = LlamaForSequenceClassification.from_pretrained(Path(directory, "ours")).eval()
        rows = [p.chosen for p in data]
        with torch.no_grad():
            expected = there(torch.tensor(rows)).logits.squeeze(1)
        assert isinstance(here, ScalarModel)
        found = torch.tensor(last_scores(here.eval(), rows))
        print(f"scores of ours there and of theirs here: at most {(found - expected).abs().max():.1e} apart")
        assert (found - expected).abs().max() < 1e-5


def both(ours: torch.nn.Module, theirs: torch.nn.Module) -> Any:
    """Parameters of both, by the same name."""
    names = dict(theirs.named_parameters())
    return [((name, weight), (name, names[name])) for name, weight in ours.named_parameters()]


def main() -> None:
    """All contenders; with --trl, TRL's figure alone."""
    parser = options(__doc__)
    parser.add_argument("--shared", type=int, default=64, help="tokens that both answers of a pair begin with")
    parser.add_argument("--parity", action="store_true", help="compare the first step, and what is saved")
    asked = ready(parser)
    if asked.parity:
        parity(asked.shapes[0], asked.shared)
        return
    rates = (partial(rate, shared=asked.shared) for rate in (ours, theirs))
    compare(asked, *rates, "reward model", "pairs/s", shared=asked.shared)


if __name__ == "__main__":
    main()
