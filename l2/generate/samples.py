"""Sample records: prompts with their answers, as they pass between commands (design.md §2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

import torch

from l2.files.errors import BadInput, UsageError
from l2.files.jsonl import Record
from l2.files.progress import OnProgress, ignore
from l2.generate.engine import Completion, Sampler, Sampling, generate, prompt_key
from l2.generate.scoring import last_scores
from l2.model.transformer import LanguageModel, ScalarModel
from l2.tokens.chat import check_messages, encode_dialog, encode_prompt, messages_of
from l2.tokens.tokenizer import Tokenizer

Sample = dict[str, Any]
WINDOW = 16  # batches that are sorted by length together: results come out in order, this many batches late at most
T = TypeVar("T")


def windows(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items in a row; the last may be shorter."""
    source = iter(items)
    while window := list(islice(source, size)):
        yield window


def prompt_ids(tokenizer: Tokenizer, record: Record, *, raw: bool = False) -> list[int]:
    """Ids of a prompt record: as a dialog that ends with the user or, when `raw`, BOS and plain text."""
    if raw:
        return [tokenizer.bos_id, *tokenizer.encode(record.need("prompt"))]
    messages = messages_of(record, "prompt")
    if messages[-1]["role"] != "user":
        raise BadInput(record.where, "a prompt that ends with the assistant", "one that ends with the user")
    return encode_prompt(tokenizer, messages)


def _check_room(records: Sequence[Record], rows: Sequence[Sequence[int]], context: int) -> None:
    for record, row in zip(records, rows, strict=True):
        if len(row) >= context:
            expected = f"fewer than {context}, so that an answer fits the model's context"
            raise BadInput(record.where, f"a prompt of {len(row)} tokens", expected)


def _shifted(on_progress: OnProgress, before: int, total: int) -> OnProgress:
    """Progress of a part of the work that starts after `before` units, as progress of the whole."""

    def report(done: float, _: float | None = None, note: str = "") -> None:
        on_progress(before + done, total, note)

    return report


def sample_answers(
    model: Sampler,
    tokenizer: Tokenizer,
    records: Sequence[Record],
    rows: Sequence[list[int]],
    sampling: Sampling,
    *,
    name: str,
    k: int = 1,
    batch_size: int = 64,
    max_batch_tokens: int | None = None,
    stop: Sequence[str] = (),
    raw: bool = False,
    on_progress: OnProgress = ignore,
) -> Iterator[list[Record]]:
    """`k` sample records for each prompt record in turn, whose ids are `rows`; `name` is put down as the model.

    `tokens` are the ids that were drawn, so that nothing downstream goes through text and back. The response is
    their text without the spaces around it or, when `raw`, exactly what goes on from the prompt. An answer ends with
    the token that completes one of the texts of `stop`, and its response before that text. Raises BadInput for a prompt
    after which no answer fits.
    """
    _check_room(records, rows, model.config.max_seq_len)
    settings = {"temperature": sampling.temperature, "model": name}
    done = 0
    for window in windows(zip(records, rows, strict=True), max(1, WINDOW * batch_size // k)):
        answers = generate(
            model,
            [row for _, row in window],
            [prompt_key(record["id"]) for record, _ in window],
            sampling,
            k=k,
            eos_id=tokenizer.eos_id,
            batch_size=batch_size,
            max_batch_tokens=max_batch_tokens,
            ended=_says(tokenizer, stop, raw=raw) if stop else None,
            on_progress=_shifted(on_progress, done, len(records)),
        )
        done += len(window)
        for (record, row), completions in zip(window, answers, strict=True):
            before = row if raw else None
            made = (_answered(tokenizer, answer, before, stop) for answer in completions)
            known = {field: value for field, value in record.items() if field != "rewards"}  # those were of others
            yield [Record(known | new | settings | {"sample": i}, record.where) for i, new in enumerate(made)]


def sampler_of(
    tokenizer: Tokenizer, prompts: Sequence[str], context: int, sampling: Sampling, name: str
) -> Callable[[LanguageModel], list[Record]]:
    """What makes a sample record of each of `prompts`, texts to go on from, of the model it is given: always alike.

    Raises BadInput for a prompt that leaves no room in a context of `context` tokens.
    """
    records = [Record({"id": str(i), "prompt": prompt}, "--sample") for i, prompt in enumerate(prompts)]
    rows = [prompt_ids(tokenizer, record, raw=True) for record in records]
    _check_room(records, rows, context)

    def draw(model: LanguageModel) -> list[Record]:
        answers = sample_answers(model, tokenizer, records, rows, sampling, name=name, raw=True)
        return [sample for (sample,) in answers]

    return draw


def _says(tokenizer: Tokenizer, stop: Sequence[str], *, raw: bool) -> Callable[[Sequence[int]], bool]:
    """Whether the text of ids holds one of `stop` near its end: a token is a byte at least, so that is far enough.

    Raises UsageError for a stop text that is empty.
    """
    if not all(stop):
        raise UsageError("--stop: an empty text would end every answer before its first token")
    reach = max(len(text.encode()) for text in stop) + 4
    before = tokenizer.encode("a") if raw else []  # a first piece loses its space: raw answers go on after another
    known = len(tokenizer.decode(before))

    def says(tokens: Sequence[int]) -> bool:
        tail = tokenizer.decode([*before, *tokens[-reach:]])[known:]
        return any(text in tail for text in stop)

    return says


def _answered(tokenizer: Tokenizer, answer: Completion, before: list[int] | None, stop: Sequence[str]) -> Sample:
    """The fields of an answer; with `before`, the ids of a plain text, its response goes on exactly from there."""
    if before is None:
        response = tokenizer.decode(answer.tokens)
    else:
        response = tokenizer.decode(before + answer.tokens)[len(tokenizer.decode(before)) :]
    for text in stop:
        response = response.partition(text)[0]
    return {
        "response": response.strip() if before is None else response,
        "finish": answer.finish,
        "tokens": answer.tokens,
        "logprob": sum(answer.logprobs),
    }


def answered_ids(tokenizer: Tokenizer, record: Record) -> list[int]:
    """Ids of a sample or a dialog up to the end of its answer, which is where it is scored.

    A sample's own `tokens` are taken where this tokenizer reads its response in them: then no token is scored but
    those that were drawn. Raises BadInput for a record that is neither, and for a dialog that ends with the user.
    """
    if "messages" in record:
        messages = messages_of(record, "messages")
        if messages[-1]["role"] != "assistant":
            raise BadInput(record.where, "a dialog that ends with the user", "one that ends with an answer to score")
        return encode_dialog(tokenizer, messages).ids
    prompt, response, tokens = prompt_ids(tokenizer, record), record.need("response"), record.get("tokens")
    if _reads(tokenizer, tokens) == response:
        return prompt + list(tokens or ())
    answer = {"role": "assistant", "content": response}
    messages = check_messages([*messages_of(record, "prompt"), answer], record.where)
    return encode_dialog(tokenizer, messages).ids


def _reads(tokenizer: Tokenizer, tokens: Any) -> str | None:
    """The text of `tokens`, or None where they are no ids of this tokenizer."""
    if not isinstance(tokens, list) or not tokens:
        return None
    known = all(type(token) is int and 0 <= token < tokenizer.vocab_size for token in tokens)
    return tokenizer.decode(tokens).strip() if known else None


def add_rewards(
    models: Mapping[str, ScalarModel],
    tokenizer: Tokenizer,
    records: Iterable[Record],
    *,
    batch_size: int = 64,
    sigmoid: bool = False,
    on_progress: OnProgress = ignore,
) -> Iterator[Record]:
    """The samples or dialogs in turn, with `rewards` {name: raw score at the last token} added to those they have.

    sigmoid: σ(score) instead, the paper's scale from 0 to 1 (§3.2.2).
    Raises BadInput for a record that can't be scored, and for one of more tokens than a model's context.
    """
    context = min(model.config.max_seq_len for model in models.values())
    done = 0
    for window in windows(records, WINDOW * batch_size):
        rows = [answered_ids(tokenizer, record) for record in window]
        for record, row in zip(window, rows, strict=True):
            if len(row) > context:
                raise BadInput(record.where, f"{len(row)} tokens", f"at most {context}, the reward model's context")
        scores = {name: last_scores(model, rows, batch_size) for name, model in models.items()}
        if sigmoid:
            scores = {name: torch.tensor(raw, dtype=torch.float64).sigmoid().tolist() for name, raw in scores.items()}
        for i, record in enumerate(window):
            known = record.need("rewards", dict) if "rewards" in record else {}
            rewards = known | {name: values[i] for name, values in scores.items()}
            yield Record(record | {"rewards": rewards}, record.where)
        done += len(window)
        on_progress(done, None, "")
