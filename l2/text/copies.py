"""Copies among documents: the earliest of its like is kept, by sorted files of keys and in bounded memory.

One stream knows its exact copies from a dictionary. All else goes through the spills of a `Corpus`: documents that
share a key are found band by band, a range of keys at a time; near copies fall into components of documents that are
linked by buckets, and what happens in one component depends on no other. So each step is a list of independent tasks,
whose results are files: a task whose file is there is not done again.
"""

from __future__ import annotations

import functools
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from l2.files.atomic import atomic_dir, atomic_file
from l2.files.jsonl import Record
from l2.files.ledger import Ledger
from l2.files.spills import Keys, Numbers, components, shared, without
from l2.text.duplicates import BANDS, SIMILAR, Hashes, exact_key, normalised, shingles, survivors
from l2.text.mapped import Corpus

# A near-duplicate cluster is held back where it is more than this share of a source, and no small one (ours).
HELD_SHARE, HELD_LEAST = 0.5, 100
CACHE_BYTES = 32 << 20  # of shingles: survivors of large clusters are asked for again and again
TASK_PAIRS = 100_000  # (document, bucket) pairs of a task: 6 MB
MOST_TASKS = 1000  # files open at once

# Runs a function over tasks, in order, somewhere: `ordered_map` but for its settings.
Map = Callable[[Callable[[], Callable[[Any], Any]], Sequence[Any]], Iterable[Any]]

NEAR = np.dtype([("number", "<i8"), ("of", "<i8"), ("jaccard", "<f8")])


def without_copies(documents: Iterable[Record], ledger: Ledger) -> Iterator[Record]:
    """Documents whose normalised words equal no earlier document's. Memory: about 200 bytes a document."""
    first: dict[bytes, Any] = {}
    for document in documents:
        key = exact_key(normalised(document["text"]))
        if key in first:
            ledger.reject_record(document, "exact_duplicate", {"of": first[key]}, None)
        else:
            first[key] = document["id"]
            yield document


class HeldBack(NamedTuple):
    """A cluster that was not dropped: `documents` like the one called `of`, a `share` of those of their `source`."""

    of: Any
    source: str
    documents: int
    share: float


@dataclass(frozen=True)
class Copies:
    """What is dropped from a corpus: exact copies [2, X] (number, first of its like) and near ones [N] of NEAR."""

    exact: Numbers
    near: npt.NDArray[np.void]
    held_back: tuple[HeldBack, ...] = ()

    def in_order(self) -> Iterator[tuple[int, str, int, float | None]]:
        """(number, rule, the one that it repeats, similarity) of each, in input order."""
        numbers = np.concatenate((self.exact[0], self.near["number"]))
        for at in np.argsort(numbers, kind="stable").tolist():
            if at < self.exact[0].size:
                yield int(numbers[at]), "exact_duplicate", int(self.exact[1, at]), None
            else:
                near = self.near[at - self.exact[0].size]
                yield int(numbers[at]), "near_duplicate", int(near["of"]), float(near["jaccard"])


def repeated(corpus: Corpus, rule: str, of: int, likeness: float | None) -> tuple[str, dict[str, Any], float | None]:
    """(rule, value, threshold) of a copy in the ledger: the id of the kept document that it repeats."""
    value = {"of": corpus.document(of)["id"]}
    return (rule, value, None) if likeness is None else (rule, value | {"jaccard": likeness}, SIMILAR)


NO_COPIES = Copies(np.zeros((2, 0), np.int64), np.zeros(0, NEAR))


def save(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an array as .npy, whole or not at all."""
    with atomic_file(path) as f:
        np.save(f, array)


def complete(run: Map, make: Callable[[], Callable[[Any], Any]], tasks: Mapping[Path, Any]) -> list[Path]:
    """The result files of `tasks`, {file: task}; `make()((file, task))` writes those that are missing."""
    missing = [(path, task) for path, task in tasks.items() if not path.exists()]
    for _ in run(functools.partial(_unless_there, make), missing) if missing else ():
        pass
    return list(tasks)


def _unless_there(make: Callable[[], Callable[[Any], Any]]) -> Callable[[tuple[Path, Any]], None]:
    """`make()` for tasks that nobody else has done meanwhile."""
    function = make()

    def task(item: tuple[Path, Any]) -> None:
        if not item[0].exists():
            function(item)

    return task


def repeats(corpus: Corpus) -> Callable[[tuple[Path, tuple[int, int]]], None]:
    """The task (file, (range, of how many)): exact copies whose keys are in the range, [2, X] (number, first)."""

    def task(item: tuple[Path, tuple[int, int]]) -> None:
        path, (index, ranges) = item
        members, _ = shared(*corpus.spills("exact").keys_in(0, index, ranges))
        high, low = exact_keys(corpus, np.sort(members)).T
        order = np.lexsort((low, high))
        new = np.ones(order.size, bool)
        new[1:] = (np.diff(high[order]) != 0) | (np.diff(low[order]) != 0)
        numbers = np.sort(members)[order]
        firsts = numbers[np.flatnonzero(new)[np.cumsum(new) - 1]]
        save(path, np.stack((numbers, firsts))[:, ~new])

    return task


def exact_keys(corpus: Corpus, numbers_K: Numbers) -> Keys:
    """The exact keys [K, 2] of documents, whose numbers ascend."""
    keys = [np.zeros((0, 2), np.uint64)]
    ends = np.searchsorted(numbers_K, corpus.starts)
    for i, part in enumerate(corpus.parts()):
        if ends[i] < ends[i + 1]:
            keys.append(part.index["exact"][numbers_K[ends[i] : ends[i + 1]] - corpus.starts[i]])
    return np.concatenate(keys)


def candidates(corpus: Corpus, exact: Path) -> Callable[[tuple[Path, tuple[int, int, int]]], None]:
    """The task (file, (band, range, of how many)): [2, E] pairs of a document and the first that shares its bucket.

    Only buckets of two documents or more, with the exact copies, which `exact` names, left out.
    """
    dropped = np.load(exact, mmap_mode="r")[0]

    def task(item: tuple[Path, tuple[int, int, int]]) -> None:
        path, (band, index, ranges) = item
        keys, numbers = corpus.spills("bands").keys_in(band, index, ranges)
        left = without(numbers, dropped)
        save(path, np.stack(shared(keys[left], numbers[left])))

    return task


def verify(corpus: Corpus) -> Callable[[tuple[Path, Path]], None]:
    """The task (file, file of pairs): the near copies among some components, [N] of NEAR."""
    shingles_of = ShinglesOf(corpus)

    def task(item: tuple[Path, Path]) -> None:
        path, pairs = item
        documents_E, buckets_E = np.fromfile(pairs, np.int64).reshape(-1, 2).T
        dropped = survivors(documents_E, buckets_E, shingles_of)
        save(path, np.array([(number, *of) for number, of in dropped.items()], NEAR))

    return task


class ShinglesOf:
    """The shingles of the documents of a corpus; those asked for last are remembered."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._known: OrderedDict[int, Hashes] = OrderedDict()
        self._bytes = 0

    def __call__(self, number: int) -> Hashes:
        """Those of document `number`."""
        if number in self._known:
            self._known.move_to_end(number)
            return self._known[number]
        found = shingles(normalised(self._corpus.document(number)["text"]))
        self._known[number] = found
        self._bytes += found.nbytes
        while self._bytes > CACHE_BYTES and len(self._known) > 2:
            self._bytes -= self._known.popitem(last=False)[1].nbytes
        return found


def deal(edges: Sequence[Path], count: int, directory: Path) -> list[Path]:
    """Files of (document, bucket) pairs, each of whole components of the documents that `edges` link, in `directory`.

    edges[i] belongs to band i * BANDS // len(edges). Memory: 24 bytes for each of the `count` documents.
    """
    if not directory.exists():
        label = components([str(path) for path in edges], count)
        weight = np.zeros(count, np.int64)
        for path in edges:
            np.add.at(weight, label[np.load(path)[0]], 1)
        np.cumsum(weight, out=weight)
        total = int(weight[-1]) if count else 0
        tasks = min(MOST_TASKS, -(-total // TASK_PAIRS))
        with atomic_dir(directory) as partial:
            files = [open(partial / f"{task:04}.pairs", "wb") for task in range(tasks)]  # noqa: SIM115
            for i, path in enumerate(edges):
                members, firsts = np.load(path)
                pairs = np.stack((members, firsts * BANDS + i * BANDS // len(edges)), 1)
                task_E = np.minimum(weight[label[members]] * tasks // (total + 1), tasks - 1)
                for task in np.unique(task_E).tolist():
                    pairs[task_E == task].tofile(files[task])
            for file in files:
                file.close()
    return sorted(directory.glob("*.pairs"))


def find_copies(corpus: Corpus, near: bool, directory: Path, run: Map, ranges: int) -> Copies:
    """The exact and, if asked for, the near copies of a corpus, found in tasks whose files are in `directory`.

    Keys are sorted in `ranges` parts: a task needs KEY_BYTES for each document of one of them.
    """
    directory.mkdir(exist_ok=True)
    exact_file = directory / "exact.npy"
    if not exact_file.exists():
        tasks: dict[Path, Any] = {directory / f"exact-{i}-of-{ranges}.npy": (i, ranges) for i in range(ranges)}
        found = [np.load(path) for path in complete(run, functools.partial(repeats, corpus), tasks)]
        exact = np.concatenate(found, axis=1)
        save(exact_file, exact[:, np.argsort(exact[0], kind="stable")])
    exact = np.load(exact_file)
    if not near:
        return Copies(exact, NO_COPIES.near)
    near_file = directory / "near.npy"
    if not near_file.exists():
        names = [(band, i, ranges) for band in range(BANDS) for i in range(ranges)]
        tasks = {directory / f"band-{band}-{i}-of-{of}.npy": (band, i, of) for band, i, of in names}
        edges = complete(run, functools.partial(candidates, corpus, exact_file), tasks)
        pairs = deal(edges, len(corpus), directory / "components")
        tasks = {directory / f"near-{path.stem}.npy": path for path in pairs}
        parts = [np.load(path) for path in complete(run, functools.partial(verify, corpus), tasks)]
        all_near = np.concatenate([NO_COPIES.near, *parts])
        save(near_file, all_near[np.argsort(all_near["number"], kind="stable")])
    return Copies(exact, np.load(near_file))


def without_large_clusters(corpus: Corpus, copies: Copies) -> Copies:
    """`copies` without the clusters that would take more than half of a source.

    A cluster is a kept document and the near copies dropped for its sake. Of those from one source it may take
    HELD_SHARE of all documents of the source that pass the checks and are no exact copies; and up to HELD_LEAST
    in any case, since a small source is soon looked through.
    """
    exact, near = copies.exact, copies.near
    survivor, size = np.unique(near["of"], return_counts=True)
    clusters: list[tuple[int, str, Numbers]] = []
    for of in survivor[size >= HELD_LEAST].tolist():
        members = near["number"][near["of"] == of]
        names = np.array([_source(corpus, number) for number in members.tolist()], object)
        own = _source(corpus, of)
        clusters += [
            (of, name, members[names == name])
            for name, count in Counter(names).items()
            if count + (name == own) > HELD_LEAST
        ]
    if not clusters:
        return copies
    totals = _source_sizes(corpus, exact[0], {name for _, name, _ in clusters})
    held = [
        (of, name, members, (members.size + (name == _source(corpus, of))) / totals[name])
        for of, name, members in clusters
    ]
    held = [cluster for cluster in held if cluster[3] > HELD_SHARE]
    kept = np.sort(np.concatenate([NO_COPIES.exact[0], *(members for _, _, members, _ in held)]))
    told = (HeldBack(corpus.document(of)["id"], name, members.size, share) for of, name, members, share in held)
    return Copies(exact, near[without(near["number"], kept)], tuple(told))


def _source(corpus: Corpus, number: int) -> str:
    part, local = corpus.at(number)
    return part.source(local)


def _source_sizes(corpus: Corpus, exact: Numbers, names: set[str]) -> Counter[str]:
    """How many documents of each source there are, without the exact copies, whose numbers ascend."""
    sizes: Counter[str] = Counter()
    for part, start in zip(corpus.parts(), corpus.starts, strict=False):  # starts has the end too
        first, last = np.searchsorted(exact, (start, start + len(part)))
        left = np.delete(part.index["source"], exact[first:last] - start)
        counts = np.bincount(left, minlength=len(part.about["sources"])).tolist()
        sizes.update({name: count for name, count in zip(part.about["sources"], counts, strict=True) if name in names})
    return sizes
