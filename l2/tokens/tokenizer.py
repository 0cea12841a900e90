"""The paper's tokenizer: SentencePiece BPE with byte fallback and single digits (paper §2.2; paper.md §1.3)."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import sentencepiece

from l2.files.atomic import write_atomic
from l2.files.errors import BadInput, L2Error, UsageError
from l2.files.progress import OnProgress, ignore
from l2.tokens.cached import Encoder, Rules, make_encoder, read_rules

MODEL_FILE = "tokenizer.model"

# The trainer and normalizer of Meta's published tokenizer.model, every value (paper.md §1.3) but two at their defaults
# that SentencePiece has deprecated and complains about. The number of threads changes no piece; it is fixed because it
# stands in the file: the same text gives the same bytes on any machine.
PAPER_SETTINGS: dict[str, Any] = {
    "model_type": "bpe",
    "input_format": "text",
    "character_coverage": 0.99995,
    "input_sentence_size": 200_000_000,
    "shuffle_input_sentence": True,
    "seed_sentencepiece_size": 1_000_000,
    "shrinking_factor": 0.75,
    "num_sub_iterations": 2,
    "num_threads": 80,
    "max_sentence_length": 4192,
    "max_sentencepiece_length": 16,
    "split_by_unicode_script": True,
    "split_by_whitespace": True,
    "split_by_number": True,
    "split_digits": True,
    "treat_whitespace_as_suffix": False,
    "allow_whitespace_only_pieces": True,
    "byte_fallback": True,
    "vocabulary_output_piece_score": True,
    "hard_vocab_limit": True,
    "use_all_vocab": False,
    "required_chars": "",
    "normalization_rule_name": "identity",
    "add_dummy_prefix": True,
    "remove_extra_whitespaces": False,
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "pad_id": -1,
    "unk_surface": " \u2047 ",
}
LONGEST_LINE = 4192  # bytes: max_sentence_length


class Tokenizer:
    """SentencePiece ids. The pad id is 0 (<unk>), never EOS (design.md §2)."""

    def __init__(self, model_bytes: bytes, rules: Rules | None = None) -> None:
        self._rules = rules
        self.model_bytes = model_bytes
        self.sha256 = hashlib.sha256(model_bytes).hexdigest()
        self._pieces = sentencepiece.SentencePieceProcessor()
        self._pieces.LoadFromSerializedProto(model_bytes)
        self.vocab_size: int = self._pieces.vocab_size()
        self.bos_id, self.eos_id, self.pad_id = 1, 2, 0

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without BOS and EOS."""
        ids: list[int] = self._pieces.encode(text)
        return ids

    def encode_with_ends(self, text: str) -> tuple[list[int], list[int]]:
        """`encode`, and for each id the character of `text` at which it ends."""
        mapping = self._pieces.encode(text, return_type="offset_mapping")
        return mapping["ids"], [end for _, end in mapping["offsets"]]

    def encode_batch(self, texts: Sequence[str], threads: int = 1) -> list[list[int]]:
        """`encode` of every text, in order; the same for any number of threads."""
        ids: list[list[int]] = self._pieces.encode(list(texts), num_threads=threads)
        return ids

    def encoder(self, dtype: np.dtype[Any]) -> Encoder:
        """An encoder of many texts to bytes of `dtype`: the ids of `encode`, several times as fast."""
        return make_encoder(self.model_bytes, dtype, self._rules)

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[bytes, Rules]]:
        """How it gets to another process: with its rules, which take longer to read than to send."""
        return Tokenizer, (self.model_bytes, read_rules(self.model_bytes))

    def pieces(self) -> list[tuple[str, float]]:
        """Every piece with its score, in the order of ids."""
        return [(self._pieces.id_to_piece(i), self._pieces.get_score(i)) for i in range(self.vocab_size)]

    def is_byte(self, token: int) -> bool:
        """Whether an id stands for a byte of a character that has no piece."""
        return bool(self._pieces.is_byte(token))

    def byte_counter(self) -> ByteCounter | None:
        """What counts the bytes of text behind ids, or None where ids don't tell: the text was normalised, or has
        characters without a piece and without bytes."""
        rules = read_rules(self.model_bytes)
        return None if rules.why_plain else ByteCounter(self, rules)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`. BOS, EOS, padding, and ids of an embedding larger than the vocabulary have none."""
        text: str = self._pieces.decode([i for i in ids if 2 < i < self.vocab_size])
        return text


class ByteCounter:
    """Bytes of text (UTF-8) that ids stand for: exact but for a U+2581 in it, which ids can't tell from a space."""

    def __init__(self, tokenizer: Tokenizer, rules: Rules) -> None:
        self._tokenizer, self._prefix = tokenizer, rules.prefix
        self._sizes = np.zeros(tokenizer.vocab_size, np.int64)  # BOS and EOS stand for nothing
        self._sizes[list(rules.bytes)] = 1
        for text, token, _ in rules.pieces:
            self._sizes[token] = len(text)

    def __call__(self, ids: np.ndarray, before: np.ndarray) -> int:
        """Of `ids` [N] together; `before` [N] holds the id before each. The space that is put before a text is not of
        it."""
        first = (before == self._tokenizer.bos_id) & (self._sizes[ids] > 0)
        return int(self._sizes[ids].sum()) - self._prefix * int(first.sum())


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a checkpoint directory, or of a tokenizer.model file.

    Raises L2Error where there is none and BadInput where it is no Llama SentencePiece model.
    """
    path = Path(path)
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.exists():
        raise L2Error(f"{file}: no such file; a SentencePiece tokenizer.model is needed")
    model = file.read_bytes()
    try:
        tokenizer = Tokenizer(model)
    except RuntimeError:
        raise BadInput(str(file), "no SentencePiece model", "a tokenizer.model") from None
    pieces = tokenizer._pieces
    special = (pieces.unk_id(), pieces.bos_id(), pieces.eos_id())
    if special != (0, 1, 2):
        raise BadInput(str(file), f"<unk>, BOS, EOS at {special}", "ids (0, 1, 2), as Llama has them")
    return tokenizer


def lines_of(text: str) -> list[str]:
    """What a tokenizer learns from: the lines of `text` but empty ones, with a space for NUL, which stops a trainer."""
    return [line for line in text.replace("\0", " ").split("\n") if line]


class _Lines:
    """Lines for SentencePiece, which learns from lines and skips those over LONGEST_LINE: here they are counted.

    SentencePiece also replaces any exception of its source by one of its own; `error` keeps the real one.
    """

    def __init__(self, texts: Iterable[str], on_progress: OnProgress) -> None:
        self._texts, self._on_progress = texts, on_progress
        self.given = self.skipped = 0
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[str]:
        try:
            for count, text in enumerate(self._texts, 1):
                for line in lines_of(text):
                    if len(line.encode()) > LONGEST_LINE:
                        self.skipped += 1
                    else:
                        self.given += 1
                        yield line
                note = f"{self.skipped:,} lines over {LONGEST_LINE:,} bytes skipped" if self.skipped else ""
                self._on_progress(count, None, note)
        except BaseException as error:
            self.error = error
            raise


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, out: str | Path, *, on_progress: OnProgress = ignore
) -> Tokenizer:
    """Train with the paper's exact settings on the lines of `texts` and write `out`. Same texts, same bytes.

    Lines over 4,192 bytes are not learned from (max_sentence_length); `on_progress` is told how many.
    Raises UsageError, with the largest size that the texts can fill, when `vocab_size` is out of reach, and
    BadInput when there is no line to learn from.
    """
    model = io.BytesIO()
    lines = _Lines(texts, on_progress)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, vocab_size=vocab_size, minloglevel=2, **PAPER_SETTINGS
        )
    except RuntimeError as error:
        if lines.error is not None:
            raise lines.error from None
        if not lines.given:
            raise BadInput("documents", f"no line of 1 to {LONGEST_LINE:,} bytes", "text to learn from") from None
        reason = str(error).rpartition("] ")[2].strip() or str(error)
        raise UsageError(f"--vocab-size {vocab_size}: SentencePiece can't ({reason})") from None
    write_atomic(out, model.getvalue())
    return Tokenizer(model.getvalue())


def save_tokenizer(tokenizer: Tokenizer, directory: str | Path) -> None:
    """Write tokenizer.model and the tokenizer_config.json, with the chat template, that transformers reads.

    `legacy` makes transformers put SentencePiece's leading space after every special token, as Meta's encoding of
    one turn at a time does: "[" after <s> is then "▁[". One difference stays: "<s>" and "</s>" inside a message are
    plain text here and special ids there.
    """
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
