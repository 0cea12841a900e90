"""Dialogs as the ids that a model learns from, on disk rather than in memory."""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import numpy.typing as npt

from l2.align.dialogs import read_dialogs
from l2.files.errors import BadInput
from l2.files.jsonl import OnBad, Record, encode_record, read_records
from l2.files.manifest import sha256_file
from l2.files.progress import OnProgress, ignore
from l2.tokens.chat import EncodedDialog, encode_dialog
from l2.tokens.tokenizer import Tokenizer


class Example(NamedTuple):
    """One dialog as `ids` [T]; `learn` [T] is True on the tokens whose prediction is trained."""

    ids: npt.NDArray[np.int32]
    learn: npt.NDArray[np.bool_]


class Examples(Sequence[Example]):
    """Examples in a file without a name: 4 bytes a token there, 8 bytes a dialog in memory.

    cut_turns and cut_answers count the dialogs that were too long, see `fit`; written_by those of each `model` that
    records name, as sampled ones do.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the examples
        self._ends = array("q", [0])
        self.cut_turns = self.cut_answers = 0
        self.written_by: Counter[str] = Counter()

    def append(self, dialog: EncodedDialog, length: int) -> None:
        """Add the first `length` tokens of a dialog. What is not learned is stored as the complement of its id."""
        ids, learn = np.array(dialog.ids[:length], np.int32), np.array(dialog.learn[:length])
        self._file.write(np.where(learn, ids, ~ids).tobytes())
        self._ends.append(self._ends[-1] + length)
        self.__dict__.pop("_stored", None)

    @cached_property
    def _stored(self) -> npt.NDArray[np.int32]:
        self._file.flush()
        return np.memmap(self._file, np.int32, "r") if self._ends[-1] else np.empty(0, np.int32)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        stored = np.array(self._stored[self._ends[index] : self._ends[index + 1]])
        learn = stored >= 0
        return Example(np.where(learn, stored, ~stored), learn)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each example."""
        ends = np.frombuffer(self._ends, np.int64)
        return ends[1:] - ends[:-1]


def fit(dialog: EncodedDialog, seq_len: int, bos_id: int) -> int:
    """How many tokens to keep of a dialog: all, or the whole turns that fit, or what fits of an answer.

    An answer is cut in two only where no answer to learn fits whole. 0 where nothing to learn is left (ours).
    """
    if len(dialog.ids) <= seq_len:
        return len(dialog.ids) if any(dialog.learn) else 0
    # Each turn starts with BOS.
    whole = max(at for at in range(seq_len + 1) if dialog.ids[at] == bos_id)
    if any(dialog.learn[:whole]):
        return whole
    return seq_len if any(dialog.learn[:seq_len]) else 0


def encode_examples(
    records: Iterable[Record],
    tokenizer: Tokenizer,
    seq_len: int,
    on_bad: OnBad | None = None,
    on_progress: OnProgress = ignore,
) -> Examples:
    """Dialogs with checked `messages` as examples of at most `seq_len` tokens.

    Raises BadInput (or hands it to `on_bad`) for a dialog with nothing to learn in its first `seq_len` tokens.
    """
    examples = Examples()
    for record in records:
        dialog = encode_dialog(tokenizer, record["messages"])
        length = fit(dialog, seq_len, tokenizer.bos_id)
        if not length:
            found = f"no assistant token to learn in the first {seq_len} tokens"
            error = BadInput(record.where, found, "an assistant message with weight 1 that fits")
            if on_bad is None:
                raise error
            on_bad(error)
            continue
        if length < len(dialog.ids):
            examples.cut_turns += dialog.ids[length] == tokenizer.bos_id
            examples.cut_answers += dialog.ids[length] != tokenizer.bos_id
        if isinstance(model := record.get("model"), str):
            examples.written_by[model] += 1
        examples.append(dialog, length)
        if len(examples) % 100 == 0:
            on_progress(len(examples), None, "")
    return examples


def read_examples(
    path: str,
    tokenizer: Tokenizer,
    seq_len: int,
    form: str | None = None,
    on_bad: OnBad | None = None,
    on_progress: OnProgress = ignore,
) -> tuple[Examples, str]:
    """The dialogs of a JSONL file (- is stdin), read as a stream, and the SHA-256 of what was read.

    Raises what `read_dialogs` and `encode_examples` raise, or hands it to `on_bad`.
    """
    digest = hashlib.sha256()

    def through(records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            digest.update(encode_record(record))
            yield record

    records = read_records([path], on_bad=on_bad)
    file = Path(path).is_file()  # a pipe can be read once only
    dialogs = read_dialogs(records if file else through(records), form, on_bad)
    examples = encode_examples(dialogs, tokenizer, seq_len, on_bad, on_progress)
    return examples, sha256_file(path) if file else digest.hexdigest()


def shown(example: Example, tokenizer: Tokenizer) -> Iterator[tuple[str, bool]]:
    """The text of an example in parts, each with whether it is learned; BOS and EOS as <s> and </s>."""
    starts = [*np.flatnonzero(example.ids == tokenizer.bos_id).tolist(), len(example.ids)]
    for start, end in pairwise(starts):
        ids, learn = example.ids[start:end].tolist(), example.learn[start:end]
        borders = [0, *(np.flatnonzero(np.diff(learn)) + 1).tolist(), len(ids)]
        said = ""
        for low, high in pairwise(borders):
            # Decoded from the turn's start: by itself a part would lose its leading space.
            text = tokenizer.decode(ids[:high])
            part = "<s>" * (low == 0) + text[len(said) :] + "</s>" * (ids[high - 1] == tokenizer.eos_id)
            yield part, bool(learn[low])
            said = text
