"""The paper's tokenizer: SentencePiece BPE with byte fallback and single digits (paper §2.2; paper.md §1.3)."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import orjson
import sentencepiece

from l2.files.atomic import write_atomic
from l2.files.errors import BadInput, L2Error, UsageError
from l2.files.progress import OnProgress, ignore

MODEL_FILE = "tokenizer.model"

# Every value of Meta's published tokenizer.model that SentencePiece does not already default to.
PAPER_SETTINGS = {
    "model_type": "bpe",
    "character_coverage": 0.99995,
    "input_sentence_size": 200_000_000,
    "shuffle_input_sentence": True,
    "max_sentence_length": 4192,
    "split_digits": True,
    "allow_whitespace_only_pieces": True,
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": True,
    "remove_extra_whitespaces": False,
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "pad_id": -1,
    "unk_surface": " \u2047 ",
}


class Tokenizer:
    """SentencePiece ids. The pad id is 0 (<unk>), never EOS (design.md §2)."""

    def __init__(self, model_bytes: bytes) -> None:
        self.model_bytes = model_bytes
        self.sha256 = hashlib.sha256(model_bytes).hexdigest()
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model_bytes)
        self.vocab_size: int = self._pieces.vocab_size()
        self.bos_id, self.eos_id, self.pad_id = 1, 2, 0

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without BOS and EOS."""
        ids: list[int] = self._pieces.encode(text)
        return ids

    def encode_batch(self, texts: Sequence[str], threads: int = 1) -> list[list[int]]:
        """`encode` of every text, in order."""
        ids: list[list[int]] = self._pieces.encode(list(texts), num_threads=threads)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; BOS, EOS and padding are dropped."""
        text: str = self._pieces.decode([i for i in ids if i > 2])
        return text


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a checkpoint directory, or of a tokenizer.model file.

    Raises L2Error where there is none and BadInput where it is no Llama SentencePiece model.
    """
    path = Path(path)
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.exists():
        raise L2Error(f"{file}: no such file; a SentencePiece tokenizer.model is needed")
    try:
        tokenizer = Tokenizer(file.read_bytes())
    except (RuntimeError, OSError):
        raise BadInput(str(file), "no SentencePiece model", "a tokenizer.model") from None
    pieces = tokenizer._pieces
    special = (pieces.unk_id(), pieces.bos_id(), pieces.eos_id())
    if special != (0, 1, 2):
        raise BadInput(str(file), f"<unk>, BOS, EOS at {special}", "ids (0, 1, 2), as Llama has them")
    return tokenizer


def _lines(texts: Iterable[str], on_progress: OnProgress) -> Iterator[str]:
    # SentencePiece learns from lines, and skips those over max_sentence_length.
    for count, text in enumerate(texts, 1):
        yield from (line for line in text.replace("\0", " ").split("\n") if line)
        on_progress(count, None, "")


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, out: str | Path, *, on_progress: OnProgress = ignore
) -> Tokenizer:
    """Train with the paper's exact settings and write `out`. The same texts in the same order give the same bytes.

    Raises UsageError, with SentencePiece's own reason, when the texts can't fill `vocab_size` pieces.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(texts, on_progress),
            model_writer=model,
            vocab_size=vocab_size,
            minloglevel=2,
            num_threads=1,
            **PAPER_SETTINGS,
        )
    except RuntimeError as error:
        reason = str(error).rpartition("] ")[2].strip() or "no reason given"
        raise UsageError(f"--vocab-size {vocab_size}: SentencePiece can't ({reason})") from None
    write_atomic(out, model.getvalue())
    return Tokenizer(model.getvalue())


def save_tokenizer(tokenizer: Tokenizer, directory: str | Path) -> None:
    """Write tokenizer.model and the tokenizer_config.json, with the chat template, that transformers reads."""
    from l2.tokens.chat import CHAT_TEMPLATE

    config = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": True,
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<unk>",
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    write_atomic(Path(directory) / MODEL_FILE, tokenizer.model_bytes)
    write_atomic(Path(directory) / "tokenizer_config.json", orjson.dumps(config, option=orjson.OPT_INDENT_2))
