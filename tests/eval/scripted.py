"""Models whose every number is known: without layers, the next token depends on the last one alone, by a table."""

from __future__ import annotations

from pathlib import Path

import torch

from l2.eval.tasks import Task, kind_of
from l2.files.jsonl import Record
from l2.model.checkpoint import save_model
from l2.model.transformer import LanguageModel
from l2.tokens.tokenizer import Tokenizer
from tests.conftest import small_config


def bigram(logits_VV: torch.Tensor, **changes: object) -> LanguageModel:
    """A model whose logits after token t are `logits_VV[t]`: one-hot embeddings, no layers, the table as its head."""
    size = len(logits_VV)
    model = LanguageModel(small_config(size, dim=size, n_layers=0, norm_eps=0.0, **changes))
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.model.norm.weight.fill_(size**-0.5)  # the norm of a one-hot vector is √size times it
        model.lm_head.weight.copy_(logits_VV.T)
    return model.eval()


def saying(tokenizer: Tokenizer, text: str, after: str = "x [/INST]", **changes: object) -> LanguageModel:
    """A model that writes `text` and EOS after any prompt that ends as `after` does."""
    chain = [tokenizer.encode(after)[-1], *tokenizer.encode(text), tokenizer.eos_id]
    assert len(set(chain)) == len(chain), "a token twice: what follows it would be ambiguous"
    logits = torch.zeros(tokenizer.vocab_size, tokenizer.vocab_size)
    logits[chain[:-1], chain[1:]] = 100.0
    return bigram(logits, **changes)


def task(*records: dict) -> Task:
    """A task of these records, of the kind that their fields say."""
    rows = [Record(record, f"t.jsonl:{i}") for i, record in enumerate(records, 1)]
    return Task("t", kind_of(rows[0]), rows)


def saved(model: LanguageModel, path: Path, tokenizer: Tokenizer) -> Path:
    save_model(model, path, tokenizer)
    return path
