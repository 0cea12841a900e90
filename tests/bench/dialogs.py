"""How fast l2 fine-tunes on dialogs, beside TRL's SFTTrainer: the same weights, ids and labels. See shell/bench.sh.

A step is 16 dialogs of 128 tokens, of which the last 64 are learned. TRL needs an environment of its own:
--peer 'trl=VENV/bin/python -m tests.bench.dialogs --trl {kind} --shapes {shape}'. Contenders take turns within a round;
medians of labelled tokens a second over rounds, with the least and the most.
"""

from __future__ import annotations

import os
import tempfile
import time
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as cmds/app.py sets it

import torch
from transformers import LlamaForCausalLM

from l2.align.examples import Examples
from l2.align.sft import FineTuning, Source
from l2.model.checkpoint import new_model
from l2.tokens.chat import EncodedDialog
from l2.train.loop import Settings, prepare, update
from tests.bench.beside_trl import be_silent, compare, options, ready, tokenizer
from tests.bench.generation import KINDS, SHAPES, copied

LENGTH, PROMPT, BATCH, STEPS = 128, 64, 16, 12
LABELLED = STEPS * BATCH * (LENGTH - PROMPT)
LR, DECAY = 2e-5, 0.1


def dialogs(vocabulary: int) -> list[EncodedDialog]:
    """Random dialogs of one turn, as many as the steps take."""
    ids = torch.randint(3, vocabulary, (STEPS * BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    ids[:, 0], ids[:, -1] = 1, 2
    return [EncodedDialog(row, [at >= PROMPT for at in range(LENGTH)]) for row in ids.tolist()]


def ours(shape: str, kind: str) -> float:
    """Labelled tokens a second of l2, fp32 weights, products in `kind`."""
    examples = Examples()
    for dialog in dialogs(SHAPES[shape].vocab_size):
        examples.append(dialog, LENGTH)
    objective = FineTuning([Source(examples)], LENGTH, BATCH, BATCH, 1, seed=0)
    settings = Settings(steps=STEPS, lr=LR, warmup=1, weight_decay=DECAY, dtype=KINDS[kind])
    training = prepare(new_model(SHAPES[shape]).train(), objective, settings)
    start = time.perf_counter()
    for _ in range(STEPS):
        update(objective, training, settings)
    return LABELLED / (time.perf_counter() - start)


def theirs(shape: str, kind: str) -> float:
    """The same by TRL; in bf16 it computes under autocast, with fp32 weights."""
    import trl
    from datasets import Dataset

    be_silent()
    data = dialogs(SHAPES[shape].vocab_size)
    rows = [{"input_ids": dialog.ids, "completion_mask": [int(learn) for learn in dialog.learn]} for dialog in data]
    with tempfile.TemporaryDirectory() as directory:
        settings: dict[str, Any] = {
            "output_dir": directory, "max_length": LENGTH, "per_device_train_batch_size": BATCH, "max_steps": STEPS,
            "completion_only_loss": True, "learning_rate": LR, "weight_decay": DECAY, "use_cpu": True,
            "bf16": kind == "bf16", "gradient_checkpointing": False, "report_to": "none", "logging_steps": 10**6,
            "save_strategy": "no", "disable_tqdm": True,
        }  # fmt: skip
        model = copied(new_model(SHAPES[shape]), LlamaForCausalLM).train()
        trainer = trl.SFTTrainer(
            model,
            trl.SFTConfig(**settings),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer(),
        )
        start = time.perf_counter()
        trainer.train()
        return LABELLED / (time.perf_counter() - start)


def main() -> None:
    """All contenders; with --trl, TRL's figure alone."""
    compare(ready(options(__doc__)), ours, theirs, "fine-tuning", "labelled tokens/s")


if __name__ == "__main__":
    main()
