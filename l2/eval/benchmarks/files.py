"""The files of benchmarks, as published or exported from parquet: JSONL, JSON, CSV and directories of them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import orjson

from l2.files.errors import BadInput, L2Error
from l2.files.jsonl import Record, open_input, read_records

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt")
PACKED = (".gz", ".zst")
NAMED = {"train", "dev", "valid", "val", "validation", "test"}  # splits
Expand = Callable[[Record], Iterator[Record]]
Read = Callable[[str, Sequence[str]], Iterator[Record]]


def plain_name(path: Path) -> str:
    """A file's name without .gz or .zst."""
    return path.stem if path.suffix in PACKED else path.name


def stem_of(path: Path) -> str:
    """A file's name without its suffixes."""
    return Path(plain_name(path)).stem


def words_of(name: Path) -> set[str]:
    """The words of a file's name and of the directories it lies in, by which a split is told."""
    return set(re.split(r"[^a-z0-9]+", f"{name.parent} {stem_of(name)}".lower()))


def files_of(path: str, splits: Sequence[str], suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """`path`, where it is a file, or those files in the directory that belong to the first of `splits` found there.

    A file belongs to a split whose name is a word of its own name or of a directory's below `path`; where no file
    names any split, all of them do. Raises L2Error where there is none.
    """
    root = Path(path)
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise L2Error(f"{path}: no such file or directory")
    files = (file for file in sorted(root.rglob("*")) if plain_name(file).endswith(tuple(suffixes)) and file.is_file())
    there = {file: words_of(file.relative_to(root)) for file in files}
    for split in splits:
        if found := [file for file, words in there.items() if split in words]:
            return found
    if there and not any(words & NAMED for words in there.values()):
        return list(there)
    raise L2Error(f"{path}: no {' or '.join(splits)} file ({', '.join(suffixes)})")


def beside(path: str, split: str) -> str:
    """Where `split` stands: in the same directory, or in the file whose name has it in place of another split's."""
    file = Path(path)
    if file.is_dir():
        return path
    for other in ("validation", "valid", "test", "dev", "val", "Validation", "Test", "Dev"):
        word = split.capitalize() if other[0].isupper() else split
        name = re.sub(rf"(?<![a-zA-Z0-9]){other}(?![a-zA-Z])", word, file.name)
        if name != file.name and (file.parent / name).is_file():
            return str(file.parent / name)
    raise L2Error(f"{path}: no {split} file beside it to take examples from; --shots 0 goes without")


def records_in(file: Path, columns: Sequence[str] = ()) -> Iterator[Record]:
    """The records of one file. columns: of a CSV without a header. Raises BadInput, naming the line or the place."""
    name = plain_name(file)
    if name.endswith((".csv", ".tsv")):
        yield from _table(file, columns, "\t" if name.endswith(".tsv") else ",")
    elif name.endswith(".json"):
        yield from _document(file)
    elif name.endswith(".txt"):
        with open_input(file) as stream:
            for number, line in enumerate(stream, 1):
                if text := line.decode("utf-8", "replace").strip():
                    yield Record({"text": text}, f"{file}:{number}")
    else:
        yield from read_records([file])


def _table(file: Path, columns: Sequence[str], delimiter: str) -> Iterator[Record]:
    with open_input(file) as stream:
        lines = io.TextIOWrapper(stream, "utf-8-sig", newline="", errors="strict")  # type: ignore[type-var]
        rows = csv.reader(lines, delimiter=delimiter)
        try:
            names = list(columns) or next(rows, [])
            for row in rows:
                where = f"{file}:{rows.line_num}"
                if len(row) != len(names):
                    raise BadInput(where, f"{len(row)} columns", f"{len(names)}: {', '.join(names)}")
                yield Record(dict(zip(names, row, strict=True)), where)
        except (csv.Error, UnicodeDecodeError) as error:
            raise BadInput(f"{file}:{rows.line_num + 1}", f"no CSV ({error})", "rows of a CSV file in UTF-8") from None
        finally:
            lines.detach()


def _document(file: Path) -> Iterator[Record]:
    """One JSON document: a list of records, or an object, which is one; or JSONL by another name."""
    with open_input(file) as stream:
        data = stream.read()
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        yield from read_records([file])
        return
    rows = document if isinstance(document, list) else [document]
    for number, row in enumerate(rows):
        where = f"{file}[{number}]" if isinstance(document, list) else str(file)
        if not isinstance(row, dict):
            raise BadInput(where, f"a JSON {type(row).__name__}", "an object")
        yield Record(row, where)


def _whole(record: Record) -> Iterator[Record]:
    yield record


def reader(
    expand: Expand = _whole, columns: Sequence[str] = (), named: str = "", only: Sequence[str] = (), less: str = ""
) -> Read:
    """A function from a path and splits to records.

    expand: the questions of a record, where it holds several. columns: of CSV files without a header. named: a field
    that gets the name of its file, less what the expression `less` matches. only: the names that are read of a
    directory, each once: two versions of a benchmark side by side are no one benchmark.
    """

    def read(path: str, splits: Sequence[str]) -> Iterator[Record]:
        count, seen = 0, dict[str, Path]()
        for file in files_of(path, splits):
            name = re.sub(less, "", stem_of(file)) if less else stem_of(file)
            if only and Path(path).is_dir():
                if name not in only:
                    continue
                if seen.setdefault(name, file) != file:
                    raise L2Error(f"{path}: {name} is there twice, as {seen[name]} and {file}; name a directory of one")
            for record in records_in(file, columns):
                for question in expand(record):
                    count += 1
                    yield Record({named: name, **question}, question.where) if named else question
        if not count:
            raise BadInput(path, "no questions", "at least one")

    return read


def with_labels(read: Read) -> Read:
    """Records whose `label`, where they have none, stands in a file beside theirs: x.jsonl and x-labels.lst."""

    def labelled(path: str, splits: Sequence[str]) -> Iterator[Record]:
        for file in files_of(path, splits, (".jsonl", ".json", ".csv", ".tsv")):
            labels = file.with_name(stem_of(file) + "-labels.lst")
            lines = labels.read_text().split() if labels.is_file() else None
            records = list(read(str(file), splits))
            if lines is not None and len(lines) != len(records):
                raise BadInput(str(labels), f"{len(lines)} labels", f"{len(records)}, one for each line of {file.name}")
            for number, record in enumerate(records):
                if lines is None and "label" not in record:
                    raise BadInput(
                        record.where, f"fields {', '.join(sorted(record))}", f"a field 'label', or labels in {labels}"
                    )
                yield record if lines is None else Record(record | {"label": lines[number]}, record.where)

    return labelled
