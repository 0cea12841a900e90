"""Episodes a second of an iteration of l2 ppo, beside TRL's PPOTrainer: the same weights, prompts, lengths and epochs.

Four models of one shape: policy, reference, value and reward. 64 answers an iteration, all of one length, as nothing
ends them; one optimizer step an epoch (l2), or TRL's own count. Checkpoints count on neither side. TRL dropped PPO
after 1.12, which needs an environment of its own (trl==1.12.0, accelerate, datasets):
--peer 'trl=VENV/bin/python -m tests.bench.ppo --trl --worlds {world} --updates {updates}'. Contenders take turns within
a round, and the first update of each is not counted; medians over rounds, with the least and the most. See
shell/bench.sh; OMP_NUM_THREADS=1 is one thread.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as cmds/app.py sets it
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # its warning ends with a number

import torch
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

from l2.align import ppo_run
from l2.align.ppo import Learner, Settings, learn
from l2.align.rollouts import Part, Prompt, reward_models
from l2.align.watch import State
from l2.model.checkpoint import new_model, scalar_from
from l2.model.config import ModelConfig
from l2.model.device import keep_memory, use_all_cores
from l2.model.transformer import LanguageModel, ScalarModel
from tests.bench.beside_trl import be_silent
from tests.bench.generation import KINDS, SMALL, copied
from tests.bench.turns import Run, programs, rounds, table

BATCH, LR, BETA = 64, 1e-6, 0.01
TINY = ModelConfig(
    vocab_size=64, dim=128, n_layers=4, n_heads=4, n_kv_heads=2, head_dim=32, ffn_dim=384, max_seq_len=64
)


class World(NamedTuple):
    """Models of a shape, prompts of `shortest` to `longest` tokens, answers of `new`; `micro` rows at once in TRL."""

    shape: ModelConfig
    shortest: int
    longest: int
    new: int
    epochs: int
    micro: int


WORLDS = {
    "tiny": World(TINY, 4, 12, 32, epochs=1, micro=64),
    "8M": World(SMALL, 32, 32, 64, epochs=1, micro=64),
    "8M-4-epochs": World(SMALL, 32, 32, 64, epochs=4, micro=16),
}


def prompts(world: World, count: int) -> list[list[int]]:
    """Random ids after BOS, none of them special."""
    chance = random.Random(0)
    lengths = [chance.randint(world.shortest, world.longest) for _ in range(count)]
    return [[1, *(chance.randrange(3, world.shape.vocab_size) for _ in range(length - 1))] for length in lengths]


def models(world: World) -> tuple[LanguageModel, LanguageModel, ScalarModel, ScalarModel]:
    """Policy, reference (the same weights), value and reward."""
    policy, reference, other = (new_model(world.shape, seed) for seed in (0, 0, 1))
    return policy, reference, scalar_from(policy, zero_head=True), scalar_from(other, seed=2)


def ours(name: str, kind: str, updates: int) -> float:
    """Episodes a second of l2, fp32 weights, products in `kind`."""
    world = WORLDS[name]
    policy, reference, value, reward = models(world)
    asked = [Prompt(ids, str(i)) for i, ids in enumerate(prompts(world, BATCH * (updates + 1)))]
    settings = Settings(
        batch=BATCH, mini_batch=BATCH, lr=LR, value_lr=LR, beta=BETA, max_new_tokens=world.new, dtype=KINDS[kind]
    )
    score = reward_models(reward, None)
    learner = Learner(policy, value, settings.dtype)
    ppo = ppo_run.Ppo(learner, reference, score, asked, settings, eos_id=-1, judges=[reward])

    def learn_epochs(learner: Learner, minis: Sequence[Sequence[Part]], settings: Settings) -> dict[str, float]:
        return learn(learner, [*minis] * world.epochs, settings)

    ppo_run.learn = learn_epochs  # type: ignore[attr-defined]  # the paper's one epoch is the only one that l2 has
    state, start = State(), 0.0
    for number in range(updates + 1):
        if number == 1:
            start = time.perf_counter()
        ppo.iterate(state)
    return BATCH * updates / (time.perf_counter() - start)


def theirs(name: str, updates: int) -> float:
    """The same by TRL, fp32."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    be_silent()
    warnings.simplefilter("ignore")
    world, ends = WORLDS[name], []
    policy, reference, value, reward = models(world)

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as directory:
        settings: dict[str, Any] = {
            "output_dir": directory, "per_device_train_batch_size": world.micro,
            "gradient_accumulation_steps": BATCH // world.micro, "num_mini_batches": 1, "num_ppo_epochs": world.epochs,
            "total_episodes": BATCH * (updates + 1), "response_length": world.new, "stop_token": None,
            "temperature": 1.0, "kl_coef": BETA, "kl_estimator": "k1", "cliprange": 0.2, "cliprange_value": 0.2,
            "vf_coef": 0.1, "gamma": 1.0, "lam": 0.95, "whiten_rewards": False, "missing_eos_penalty": None,
            "local_rollout_forward_batch_size": BATCH, "num_sample_generations": 0, "learning_rate": LR,
            "lr_scheduler_type": "constant", "adam_beta2": 0.95, "adam_epsilon": 1e-5, "weight_decay": 0.1,
            "max_grad_norm": 1.0, "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none",
            "save_strategy": "no", "logging_steps": 10**6, "disable_tqdm": True,
        }  # fmt: skip
        trainer = PPOTrainer(
            PPOConfig(**settings),
            _tokenizer(world.shape.vocab_size),
            copied(policy, LlamaForCausalLM),
            copied(reference, LlamaForCausalLM),
            copied(reward, LlamaForSequenceClassification),
            Dataset.from_dict({"input_ids": prompts(world, BATCH * (updates + 1))}),
            copied(value, LlamaForSequenceClassification),
            callbacks=[Clock()],
        )
        trainer.train()
    return BATCH * updates / (ends[-1] - ends[0])


def _tokenizer(vocabulary: int) -> Any:
    """The smallest there is, which pads on the left; what pads is beyond what can be drawn, so that no answer ends."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": vocabulary}, "<unk>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        padding_side="left",
    )  # fmt: skip


def main() -> None:
    """All contenders; with --trl, TRL's figure alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=WORLDS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=4, help="counted updates of each run")
    parser.add_argument("--trl", action="store_true", help="print TRL's episodes a second, nothing else")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    asked = parser.parse_args()
    keep_memory()
    threads = use_all_cores()
    if asked.trl:
        print(f"\n{theirs(asked.worlds[0], asked.updates):.2f}")
        return
    print(f"torch {torch.__version__}, {threads} threads, {asked.rounds} rounds of {asked.updates} updates")
    for world in asked.worlds:
        runs: dict[str, Run] = {f"l2 {kind}": partial(ours, world, kind, asked.updates) for kind in KINDS}
        runs |= programs(asked.peer, world=world, updates=asked.updates)
        table(f"{world}, PPO", rounds(runs, asked.rounds), "episodes/s")


if __name__ == "__main__":
    main()
