"""Tasks whose text is given, and only scored: bits per byte, multiple choice."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence

from l2.eval.metrics import Estimate, likeliest, mean, ratio
from l2.eval.subject import Item, Subject, fit
from l2.files.errors import BadInput
from l2.files.jsonl import Record
from l2.files.progress import OnProgress
from l2.generate.scoring import loglikelihood
from l2.tokens.tokenizer import Tokenizer

Ids = list[int]
THREADS = os.cpu_count() or 1  # of the tokenizer; the ids are the same for any


def windows(ids: Ids, length: int) -> Iterator[tuple[Ids, Ids]]:
    """(context, continuation) pairs of at most `length` ids together; each id but the first is continued to once.

    Windows overlap by half: after the first, every id has at least length / 2 ids before it (ours).
    """
    yield ids[:1], ids[1:length]
    half = length // 2
    for start in range(length, len(ids), half):
        yield ids[start + half - length : start], ids[start : start + half]


def score_documents(subject: Subject, records: Sequence[Record], on_progress: OnProgress) -> list[Item]:
    """Bits of each whole document, BOS, tokens, EOS: Σ -log2 p of all but BOS; and its bytes as UTF-8."""
    tokenizer = subject.tokenizer
    texts = [record.need("text") for record in records]
    if not any(texts):
        raise BadInput(records[0].where, "no text in any document", "text to predict")
    rows = [[tokenizer.bos_id, *ids, tokenizer.eos_id] for ids in tokenizer.encode_batch(texts)]
    subject.show(rows[0])
    length = subject.model.config.max_seq_len
    pieces = [(i, *window) for i, row in enumerate(rows) for window in windows(row, length)]
    _, contexts, continuations = zip(*pieces, strict=True)
    nats = loglikelihood(subject.language_model, contexts, continuations, on_progress)
    bits = [0.0] * len(rows)
    for (i, *_), value in zip(pieces, nats, strict=True):
        bits[i] -= value / math.log(2)
    return [
        {"id": record.identity, "bits": b, "bytes": len(text.encode())}
        for record, b, text in zip(records, bits, texts, strict=True)
    ]


def measure_documents(items: Sequence[Item]) -> dict[str, Estimate]:
    """Bits per byte of all the text, with its standard error over documents."""
    return {"bits_per_byte": ratio([item["bits"] for item in items], [item["bytes"] for item in items])}


def answer_index(record: Record) -> int:
    """Which of the record's choices is right: `answer` is a choice's text, its index from 0, or its letter from A.

    Raises BadInput for anything else, and for choices that are not at least two texts.
    """
    choices: list[str] = record.need("choices", list)
    answer = record.need("answer", (int, str))
    if len(choices) < 2 or not all(isinstance(choice, str) and choice for choice in choices):
        raise BadInput(record.where, f"choices {choices!r:.60}", "a list of at least two texts")
    if answer in choices:
        return choices.index(answer)
    index = answer if isinstance(answer, int) else ord(answer) - ord("A") if len(answer) == 1 else -1
    if isinstance(answer, bool) or not 0 <= index < len(choices):
        raise BadInput(record.where, f"answer {answer!r:.60}", "a choice's text, its index from 0 or its letter")
    return index


def encode_continuations(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> list[tuple[Ids, Ids]]:
    """Ids of the two texts of each pair written as one, cut where the ids of the first alone cease to be a prefix."""
    contexts = list(dict.fromkeys(context for context, _ in pairs))
    alone = dict(zip(contexts, tokenizer.encode_batch(contexts, THREADS), strict=True))
    wholes = tokenizer.encode_batch([context + continuation for context, continuation in pairs], THREADS)
    rows = []
    for (context, _), ids in zip(pairs, wholes, strict=True):
        start = [tokenizer.bos_id, *alone[context]]
        whole = [tokenizer.bos_id, *ids]
        cut = len(start)
        while start[:cut] != whole[:cut]:
            cut -= 1
        rows.append((whole[:cut], whole[cut:]))
    return rows


def question_of(record: Record) -> str:
    """What the model reads of a multiple-choice question."""
    return f"Question: {record.need('question')}\nAnswer:"


def score_choices(subject: Subject, records: Sequence[Record], on_progress: OnProgress) -> list[Item]:
    """Log-likelihood, in nats, of each choice after "Question: {question}\\nAnswer:", and which one is chosen."""
    answers = [answer_index(record) for record in records]
    asked = [(record, f" {choice}") for record in records for choice in record["choices"]]
    pairs = [(question_of(record), choice) for record, choice in asked]
    rows = encode_continuations(subject.tokenizer, pairs)
    for (record, _), (context, continuation) in zip(asked, rows, strict=True):
        fit(record, len(context) + len(continuation), subject.model.config.max_seq_len)
    subject.show(rows[0][0] + rows[0][1])
    contexts, continuations = zip(*rows, strict=True)
    nats = iter(loglikelihood(subject.language_model, contexts, continuations, on_progress))
    items = []
    for record, answer in zip(records, answers, strict=True):
        scores = [next(nats) for _ in record["choices"]]
        chosen = likeliest(scores, record["choices"])
        said = {"id": record.identity, "prompt": question_of(record), "options": record["choices"], "right": [answer]}
        item = said | {"loglikelihoods": scores, "chosen": chosen, "answer": answer}
        items.append(item | {"correct": chosen == answer})
    return items


def measure_choices(items: Sequence[Item]) -> dict[str, Estimate]:
    """Share of questions whose likeliest choice is the right one."""
    return {"accuracy": mean([item["correct"] for item in items])}
