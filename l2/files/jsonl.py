"""JSONL in and out: plain, .gz and .zst by file name, `-` for stdin and stdout (design.md §2)."""

from __future__ import annotations

import fcntl
import glob
import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import SEEK_END
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar, cast

import orjson
import zstandard

from l2.files.atomic import atomic_file
from l2.files.errors import BadInput, L2Error, UsageError

STDIO = "-"
PACKED_BLOCK = 1 << 13  # bytes decompressed at once: at most 256 MB come of them
OF_ARRAY = "one JSON object a line (jq -c '.[]' makes them of an array)"
WRITABLE_DEPTH = 254  # levels of nesting that orjson writes
FRAME_BYTES = 16 << 20  # of records in a frame of .zst (ours): a reader may start at any frame


class Record(dict[str, Any]):
    """One JSON object, which remembers the `where` ("file:line") it came from, for later error messages."""

    __slots__ = ("where",)

    def __init__(self, fields: Mapping[str, Any], where: str = "record") -> None:
        super().__init__(fields)
        self.where = where

    @property
    def file(self) -> str:
        """The file it came from; empty when it came from none."""
        return self.where.rpartition(":")[0]

    @property
    def line(self) -> int | None:
        """The line it came from, counted from 1; None when it came from no file."""
        number = self.where.rpartition(":")[2]
        return int(number) if number.isdecimal() else None

    @property
    def identity(self) -> str:
        """The record's id, or where it came from when it has none or null."""
        return self.where if self.get("id") is None else str(self["id"])

    def need(self, field: str, kind: type | tuple[type, ...] = str) -> Any:
        """Return `self[field]`. Raises BadInput, naming the line, when it is missing or of another type."""
        if field not in self:
            raise BadInput(self.where, f"fields {', '.join(sorted(self)) or 'none'}", f"a field {field!r}")
        value = self[field]
        if not isinstance(value, kind):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            raise BadInput(
                self.where,
                f"{field!r} of type {type(value).__name__}",
                " or ".join(k.__name__ for k in kinds),
            )
        return value


def expand(patterns: Iterable[str | Path]) -> list[str]:
    """File names of `patterns`: globs that the shell left quoted are expanded, in sorted order.

    Raises L2Error for a name or a pattern that matches nothing.
    """
    paths: list[str] = []
    for pattern in map(str, patterns):
        if pattern == STDIO or Path(pattern).exists():
            paths.append(pattern)
            continue
        found = sorted(glob.glob(pattern))
        if not found:
            raise L2Error(f"{pattern}: no such file")
        paths.extend(found)
    if paths.count(STDIO) > 1:
        raise UsageError("stdin (-) is named more than once")
    return paths


def check_outputs(inputs: Iterable[str | Path], outputs: Mapping[str, str | None]) -> None:
    """Raises UsageError where an output, {option: path or None}, would replace an input or another output."""
    read = {Path(name).resolve() for name in expand(inputs) if name != STDIO}
    known: dict[str | Path, str] = {}
    for option, path in outputs.items():
        if path is None or (Path(path).exists() and not Path(path).is_file()):
            continue  # a device takes everything
        file = path if path == STDIO else Path(path).resolve()
        if file in read:
            raise UsageError(f"{option} {path} is an input too; choose another name")
        if file in known:
            raise UsageError(f"{known[file]} and {option} are both {path}")
        known[file] = option


class ZstdFrames(io.RawIOBase):
    """What the zstandard frames in `source` hold, one after another. Raises ZstdError where it ends within a frame.

    zstandard's own stream_reader takes such an end for that of the data.
    """

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._frame: Any = None  # what decompresses the frame that is being read
        self._packed, self._ready = b"", memoryview(b"")

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as there are bytes at hand; 0 at the end."""
        while not self._ready:
            packed = self._packed or self._source.read(PACKED_BLOCK)
            if not packed:
                if self._frame is not None:
                    raise zstandard.ZstdError("it ends within a frame")
                return 0
            self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            self._ready = memoryview(self._frame.decompress(packed))
            self._packed, self._frame = (self._frame.unused_data, None) if self._frame.eof else (b"", self._frame)
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count


@contextmanager
def broken_data_told(path: str) -> Iterator[None]:
    """Raises BadInput for compressed data of `path` that turn out to be broken in the block."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise BadInput(path, f"broken compressed data ({error})", "a whole .gz or .zst file") from None


@contextmanager
def open_input(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file, or stdin for `-`, as a stream of decompressed bytes. Raises BadInput when they are broken."""
    path = str(path)
    if path == STDIO:
        if sys.stdin.isatty():
            raise UsageError("no input: name a file, or pipe records to stdin")
        yield sys.stdin.buffer
        return
    with open(path, "rb") as raw, broken_data_told(path):
        if path.endswith(".gz"):
            with gzip.GzipFile(fileobj=raw) as f:
                yield cast(BinaryIO, f)
        elif path.endswith(".zst"):
            yield io.BufferedReader(ZstdFrames(raw), 1 << 20)
        else:
            yield raw


OnBad = Callable[[BadInput], None]
Item = TypeVar("Item")
Read = TypeVar("Read")


def good(items: Iterable[Item], read: Callable[[Item], Read], on_bad: OnBad | None) -> Iterator[Read]:
    """`read` of each of `items`; those for which it raises BadInput are left out where `on_bad` takes the error."""
    for item in items:
        try:
            found = read(item)
        except BadInput as error:
            if on_bad is None:
                raise
            on_bad(error)
        else:
            yield found


def _parse(line: bytes, where: str, required: Sequence[str]) -> Record:
    try:
        fields = orjson.loads(line)
        if line.count(b"[") + line.count(b"{") > WRITABLE_DEPTH:
            orjson.dumps(fields)  # reads 1,024 levels of nesting, writes 254
    except (orjson.JSONDecodeError, orjson.JSONEncodeError) as error:
        start = line[:60].decode("utf-8", "backslashreplace").strip()
        expected = OF_ARRAY if start.startswith("[") else "one JSON object a line"
        raise BadInput(where, f"no valid JSON ({error}) in {start!r}", expected) from None
    if not isinstance(fields, dict):
        expected = OF_ARRAY if isinstance(fields, list) else "a JSON object"
        raise BadInput(where, f"a JSON {type(fields).__name__}", expected)
    record = Record(fields, where)
    for field in required:
        record.need(field, object)
    return record


def parse_records(
    lines: Iterable[bytes], shown: str, first: int = 1, *, required: Sequence[str] = (), on_bad: OnBad | None = None
) -> Iterator[Record]:
    """Records of the `lines` of what people know as `shown`, numbered from `first`. Blank lines are passed over.

    Raises BadInput for a line that is no record (or hands the error to `on_bad`).
    """
    numbered = ((number, line) for number, line in enumerate(lines, first) if line.strip())
    return good(numbered, lambda at: _parse(at[1], f"{shown}:{at[0]}", required), on_bad)


def shown_name(name: str) -> str:
    """What messages and records call an input: UTF-8, which a file's name need not be."""
    return "stdin" if name == STDIO else name.encode(errors="surrogateescape").decode(errors="replace")


def no_records(names: Sequence[str]) -> BadInput:
    """The error of inputs without a single record."""
    return BadInput(", ".join(map(shown_name, names)), "no records", "at least one JSON object")


def read_records(
    paths: Sequence[str | Path] = (STDIO,), *, required: Sequence[str] = (), on_bad: OnBad | None = None
) -> Iterator[Record]:
    """Records of the JSONL files `paths`, in order; no paths means stdin. Blank lines are passed over.

    Raises BadInput for a line that is not a JSON object or lacks a `required` field (or hands the error
    to `on_bad` and goes on), and when there is no record at all; L2Error for a file that does not exist.
    """
    names = expand(paths or (STDIO,))
    count = 0

    def counted_bad(error: BadInput) -> None:
        nonlocal count
        count += 1
        if on_bad is None:
            raise error
        on_bad(error)

    for name in names:
        with open_input(name) as stream:
            for record in parse_records(stream, shown_name(name), required=required, on_bad=counted_bad):
                count += 1
                yield record
    if not count:
        raise no_records(names)


class RecordWriter(Protocol):
    """Where records go, one line each."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record."""


def encode_record(record: Mapping[str, Any]) -> bytes:
    """One JSON object and a newline, as UTF-8."""
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)


class _StreamWriter:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, record: Mapping[str, Any]) -> None:
        self.write_line(encode_record(record))

    def write_line(self, line: bytes) -> None:
        self._stream.write(line)


class _FrameWriter(_StreamWriter):
    """Frames of FRAME_BYTES, each of whole records, so that several processes can share the file out."""

    def __init__(self, stream: zstandard.ZstdCompressionWriter) -> None:
        super().__init__(cast(BinaryIO, stream))
        self._packed, self._left = stream, FRAME_BYTES

    def write_line(self, line: bytes) -> None:
        if self._left <= 0:
            self._packed.flush(zstandard.FLUSH_FRAME)
            self._left = FRAME_BYTES
        self._left -= len(line)
        super().write_line(line)


def write_encoded(writer: RecordWriter, line: bytes) -> None:
    """Append a record that `encode_record` has made already."""
    if isinstance(writer, _StreamWriter):
        writer.write_line(line)
    else:
        writer.write(orjson.loads(line))


@contextmanager
def open_writer(path: str | Path = STDIO) -> Iterator[RecordWriter]:
    """A writer of records to a file (atomic; compressed by its name) or, for `-`, to stdout."""
    path = str(path)
    if path == STDIO:
        yield _StreamWriter(sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    with atomic_file(path) as raw:
        if path.endswith(".gz"):
            # mtime 0 and no file name: the same records give the same bytes.
            with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed:
                yield _StreamWriter(cast(BinaryIO, packed))
        elif path.endswith(".zst"):
            with zstandard.ZstdCompressor(write_checksum=True).stream_writer(raw, closefd=False) as f:
                yield _FrameWriter(f)
        else:
            yield _StreamWriter(raw)


def write_records(path: str | Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Write `records` to `path` (see `open_writer`); returns how many."""
    count = 0
    with open_writer(path) as writer:
        for record in records:
            writer.write(record)
            count += 1
    return count


def append_records(path: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Add records to the end of a file in one write, under its lock: two jobs that end together lose nothing.

    A last line that lacks its newline is ended first, so that ours stay whole.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b", buffering=0) as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        size = f.seek(0, SEEK_END)
        f.seek(max(0, size - 1))
        torn = f.read(1) not in (b"", b"\n")
        f.write(b"\n" * torn + b"".join(map(encode_record, records)))
