"""Inputs cut into parts that are read alone: byte ranges of plain files, runs of frames of .zst, other files whole.

Where the cuts are depends on the inputs alone, never on who reads them. A line belongs to the part in which it starts,
so a part's reader passes over the end of a line that started before, and reads its own last line to the end. What
comes through a pipe is laid down in pieces as it comes.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import zstandard

from l2.files.atomic import DESCRIPTORS
from l2.files.jsonl import STDIO, OnBad, Record, ZstdFrames, broken_data_told, open_input, parse_records, shown_name

LEAST, MOST, SHARES = 4 << 20, 64 << 20, 256  # bytes of a part, and parts of a small corpus (ours)
PIPED = 16 << 20  # bytes of a part of what comes through a pipe (ours)
PACKED = 4  # bytes that one byte of .zst or .gz stands for, about
BLOCK = 1 << 20
SKIPPABLE = range(0x184D2A50, 0x184D2A60)  # magic numbers of frames without data (RFC 8878, §3.1.2)


class Extent(NamedTuple):
    """The bytes [start, end) of a file as it lies on disk."""

    path: str
    start: int
    end: int


class Measure(NamedTuple):
    """Of an extent, decompressed: its bytes, its newlines, and whether the last byte is one."""

    size: int
    newlines: int
    ended: bool


class Part(NamedTuple):
    """Lines of an input: those that start in the `size` bytes (None: to the end) that follow `start` in the file.

    `newlines` stand before it in the input, which people know as `shown`; `torn`: its first bytes end an earlier line.
    """

    path: str
    shown: str
    start: int = 0
    size: int | None = None
    newlines: int = 0
    torn: bool = False


def is_piped(name: str) -> bool:
    """Whether an input can be read but once, or by this process alone: stdin, a named pipe, an open file."""
    return name == STDIO or str(Path(name).parent) in DESCRIPTORS or not os.path.isfile(name)


def data_bytes(names: Iterable[str]) -> int:
    """About how many bytes of records the files among `names` hold."""
    files = [name for name in names if not is_piped(name)]
    return sum(os.path.getsize(name) * (PACKED if name.endswith((".zst", ".gz")) else 1) for name in files)


def part_size(total: int) -> int:
    """Bytes of a part for `total` bytes of records: there are 256 parts, but none under 4 MiB or over 64 (ours)."""
    return max(LEAST, min(MOST, total // SHARES))


def extents(path: str, part_bytes: int) -> list[Extent]:
    """A regular file in extents of about `part_bytes` of records; one where it can't be cut."""
    size = os.path.getsize(path)
    if path.endswith(".gz"):
        return [Extent(path, 0, size)]
    if not path.endswith(".zst"):
        starts = list(range(0, size, part_bytes)) or [0]
    else:
        starts = [0]
        for frame in _frames(path, size) if size > part_bytes // PACKED else []:
            if frame - starts[-1] >= part_bytes // PACKED:
                starts.append(frame)
    return [Extent(path, *ends) for ends in zip(starts, [*starts[1:], size], strict=True)]


def _frames(path: str, size: int) -> list[int]:
    """Where the frames of a .zst file start; none where it is not what RFC 8878 says, which decompressing will tell."""
    starts: list[int] = []
    at = 0
    with open(path, "rb") as f:
        while at < size:
            head = os.pread(f.fileno(), 18, at)
            magic = int.from_bytes(head[:4], "little")
            if magic in SKIPPABLE:
                at += 8 + int.from_bytes(head[4:8], "little")
                continue
            try:
                checksum = 4 * zstandard.get_frame_parameters(head).has_checksum
                end = at + zstandard.frame_header_size(head)
            except zstandard.ZstdError:
                return []
            starts.append(at)
            last = False
            while not last:
                block = os.pread(f.fileno(), 3, end)
                if len(block) < 3:
                    return []
                header = int.from_bytes(block, "little")
                last, run, length = bool(header & 1), header >> 1 & 3 == 1, header >> 3
                end += 3 + (1 if run else length)
            at = end + checksum
    return starts


class _Section(io.RawIOBase):
    """The bytes of `file` up to `end`."""

    def __init__(self, file: BinaryIO, end: int) -> None:
        self._file, self._end = file, end

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        left = self._end - self._file.tell()
        return self._file.read(left if size < 0 else min(size, left))


@contextmanager
def _opened(path: str, start: int, end: int | None = None) -> Iterator[BinaryIO]:
    """The records' bytes of a file from `start` on, up to `end`, both as it lies on disk."""
    if start == 0 and end is None:
        with open_input(path) as stream:
            yield stream
        return
    with open(path, "rb") as raw:
        raw.seek(start)
        source = raw if end is None else cast(BinaryIO, _Section(raw, end))
        if not path.endswith(".zst"):
            yield source
            return
        with broken_data_told(path):
            yield io.BufferedReader(ZstdFrames(source), BLOCK)


def measure(extent: Extent) -> Measure:
    """What the parts of a file must know of the one before. Raises BadInput for broken compressed data."""
    size = newlines = 0
    last = b"\n"
    with _opened(*extent) as f:
        while block := f.read(BLOCK):
            size += len(block)
            newlines += block.count(b"\n")
            last = block[-1:]
    return Measure(size, newlines, last == b"\n")


def parts_of(cut: Sequence[Extent], measures: Sequence[Measure]) -> list[Part]:
    """The parts of one file from its extents and their measures; an uncut file needs none."""
    if len(cut) == 1:
        return [Part(cut[0].path, shown_name(cut[0].path))]
    parts = []
    newlines, torn = 0, False
    for extent, measured in zip(cut, measures, strict=True):
        shown = shown_name(extent.path)
        parts.append(Part(extent.path, shown, extent.start, measured.size, newlines, torn))
        newlines += measured.newlines
        torn = not measured.ended if measured.size else torn
    return parts


def _lines(part: Part) -> Iterator[bytes]:
    """The lines that start in `part`."""
    with _opened(part.path, part.start) as f:
        at = len(f.readline()) if part.torn else 0
        if part.size is None:
            yield from f
            return
        while at < part.size and (line := f.readline()):
            at += len(line)
            yield line


def read_part(part: Part, on_bad: OnBad | None = None) -> Iterator[Record]:
    """The records of `part`; as `read_records`, but that it may hold none."""
    first = part.newlines + part.torn + 1
    return parse_records(_lines(part), part.shown, first, on_bad=on_bad)


def lay_down(name: str, stem: Path, part_bytes: int = PIPED) -> Iterator[Part]:
    """Pieces of what comes through the pipe `name` (- is stdin), as files STEM-000000.jsonl, the caller's to remove."""
    newlines = count = 0
    with open_input(name) as stream:
        while piece := stream.read(part_bytes) + stream.readline():
            path = stem.with_name(f"{stem.name}-{count:06}.jsonl")
            path.write_bytes(piece)
            yield Part(str(path), shown_name(name), newlines=newlines)
            newlines += piece.count(b"\n")
            count += 1
