"""Sample records: prompts with their answers, as they pass between commands (design.md §2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from l2.files.jsonl import Record
from l2.files.progress import OnProgress, ignore
from l2.generate.engine import Sampling, generate, prompt_key
from l2.generate.scoring import last_scores
from l2.model.transformer import LanguageModel, ScalarModel
from l2.tokens.tokenizer import Tokenizer

Sample = dict[str, Any]


def sample_answers(
    model: LanguageModel,
    tokenizer: Tokenizer,
    records: Sequence[Record],
    rows: Sequence[list[int]],
    sampling: Sampling,
    *,
    name: str,
    k: int = 1,
    batch_size: int = 64,
    on_progress: OnProgress = ignore,
) -> list[list[Sample]]:
    """`k` sample records for each prompt record, whose ids are `rows`; `name` is put down as the model.

    `tokens` are the ids that were drawn, so that nothing downstream goes through text and back.
    """
    keys = [prompt_key(record["id"]) for record in records]
    answers = generate(
        model, rows, keys, sampling, k=k, eos_id=tokenizer.eos_id, batch_size=batch_size, on_progress=on_progress
    )
    return [
        [
            record
            | {
                "response": tokenizer.decode(answer.tokens).strip(),
                "finish": answer.finish,
                "tokens": answer.tokens,
                "logprob": sum(answer.logprobs),
                "temperature": sampling.temperature,
                "sample": index,
                "model": name,
            }
            for index, answer in enumerate(completions)
        ]
        for record, completions in zip(records, answers, strict=True)
    ]


def add_rewards(
    models: dict[str, ScalarModel],
    samples: Sequence[Sample],
    rows: Sequence[list[int]],
    batch_size: int = 32,
    on_progress: OnProgress = ignore,
) -> Iterator[Sample]:
    """The samples with `rewards` {name: raw score at the last token}; `rows` are prompt and answer as ids."""
    scores = {name: last_scores(model, rows, batch_size, on_progress) for name, model in models.items()}
    for i, sample in enumerate(samples):
        yield sample | {"rewards": sample.get("rewards", {}) | {name: values[i] for name, values in scores.items()}}
