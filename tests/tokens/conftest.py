"""A published SentencePiece model, and a tokenizer that has seen several kinds of text."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from zipfile import ZipFile

import pytest

from l2.tokens.tokenizer import Tokenizer, train_tokenizer
from tests.conftest import sentences

PACKAGE, MEMBER = "mistral-common==1.13.1", "mistral_common/data/tokenizer.model.v1"


@pytest.fixture(scope="session")
def published() -> bytes:
    """A real 32,000-piece tokenizer.model, trained with Llama 2's settings (Mistral's first; Apache-2.0)."""
    cache = Path(os.environ.get("L2_TEST_CACHE", Path.home() / ".cache" / "l2-tests"))
    wheel = cache / "mistral_common-1.13.1-py3-none-any.whl"
    if not wheel.exists():
        download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(cache), PACKAGE]
        try:
            subprocess.run(download, check=True, capture_output=True, timeout=120)
        except (subprocess.SubprocessError, OSError) as error:
            pytest.skip(f"could not fetch {PACKAGE}: {error}")
    return ZipFile(wheel).read(MEMBER)


@pytest.fixture(scope="session")
def sentencepiece_model() -> ModuleType:
    """SentencePiece's own description of its file format."""
    pytest.importorskip("google.protobuf", reason="protobuf is not installed")
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2


@pytest.fixture(scope="session")
def mixed_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """580 pieces learned from prose, code, digits and other scripts, pieces of spaces among them."""
    code = "def f(x):\n    if x:\n        return  [x, '[INST]', 1234]\n\treturn {}"
    other = "Où est la bibliothèque ? Là-bas, à côté de l'école.\nКошка сидит на ковре и смотрит в окно."
    texts = sentences(400) + [code, other] * 40
    return train_tokenizer(texts, 580, tmp_path_factory.mktemp("mixed") / "tokenizer.model")
