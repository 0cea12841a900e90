"""A large corpus of real text, repeated and edited, and the exact likeness of all its documents: what dedup is held to.

Documents of about 2.2 KB in DIR/docs.jsonl, made of the texts of a JSONL file (the quickstart's, for instance):

- pages: whole texts in a random order, joined until they are long enough, and cut. Each round has another order, so
  that pages of different rounds share paragraphs; from the second on a share of the words, 0 to 30 % of a page, is
  exchanged for other words of the corpus.
- near copies of one page in six, anywhere in the file, whose Jaccard similarity is aimed at 0.5 to 1: words exchanged
  all over, a passage exchanged, the end cut off, or nothing but case and punctuation.

Every pair of documents with a true Jaccard similarity of 0.5 or more, planted or not, is in DIR/truth.jsonl,
{"a", "b", "jaccard"} with the numbers of their lines, a < b: the sets of all 5-grams of normalised words are
intersected, none is sampled. The same texts and seed give the same bytes.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from scipy.sparse import csr_array

from l2.files.jsonl import read_records, write_records
from l2.text.duplicates import normalised

SIZE = 2200  # bytes of a page, about
EXCHANGED = 0.3  # of a page's words at most
COPIED = 1 / 6  # of all pages
LEAST = 0.5  # Jaccard similarity that is recorded
BLOCK = 1000  # documents compared with all others at once


def pages(texts: Sequence[str], random_: random.Random) -> Iterator[str]:
    """Pages of about SIZE bytes, round after round through `texts`, without end."""
    vocabulary = " ".join(texts).split(" ")
    for round_ in count():
        page = ""
        for text in random_.sample(texts, len(texts)):
            page = f"{page}\n\n{text}" if page else text
            while len(page) > SIZE and " " in page[SIZE:]:
                end = page.index(" ", SIZE)
                cut, page = page[:end], page[end + 1 :]
                yield exchanged(cut, random_.uniform(0, EXCHANGED), vocabulary, random_) if round_ else cut


def exchanged(text: str, share: float, vocabulary: Sequence[str], random_: random.Random) -> str:
    """`text` with that share of its words exchanged for others."""
    words = text.split(" ")
    return " ".join(random_.choice(vocabulary) if random_.random() < share else word for word in words)


def near_copy(page: str, other: str, likeness: float, vocabulary: Sequence[str], random_: random.Random) -> str:
    """A copy of `page` whose Jaccard similarity to it is about `likeness`."""
    how = random_.choice(["words", "passage", "end", "look"])
    same = 2 * likeness / (1 + likeness)  # of the shingles of each, where both have as many
    words = page.split(" ")
    if how == "words":
        return exchanged(page, 1 - same ** (1 / 5), vocabulary, random_)
    if how == "passage":
        size = round((1 - same) * len(words))
        start = random_.randrange(len(words) - size + 1)
        return " ".join(words[:start] + other.split(" ")[:size] + words[start + size :])
    if how == "end":
        return " ".join(words[: round(likeness * len(words))])
    return page.upper().replace(". ", " -- ")


def corpus(texts: Sequence[str], size: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Documents {id, text, of}, `size` bytes together; `of` is the id of what a near copy was made of, or None."""
    random_ = random.Random(seed)
    vocabulary = " ".join(texts).split(" ")
    originals: list[str] = []
    left = size / (1 + COPIED)
    for page in pages(texts, random_):
        originals.append(page)
        if (left := left - len(page.encode())) <= 0:
            break
    made = [{"id": f"page-{i}", "text": page, "of": None} for i, page in enumerate(originals)]
    for i in random_.sample(range(len(originals)), round(COPIED * len(originals))):
        other = random_.choice(originals)
        copy = near_copy(originals[i], other, random_.uniform(LEAST, 1), vocabulary, random_)
        made.append({"id": f"copy-{i}", "text": copy, "of": f"page-{i}"})
    random_.shuffle(made)
    yield from made


def similar_pairs(texts: Iterable[str]) -> Iterator[tuple[int, int, float]]:
    """(a, b, Jaccard) of all pairs a < b with LEAST or more, in order of a and b.

    A 5-gram is told by its xxh3_64: of 30 million different ones, two are taken for one with a probability of 2e-5.
    """
    rows: list[np.ndarray] = []
    for text in texts:
        words = normalised(text).split(b" ")
        grams = (b" ".join(words[i : i + 5]) for i in range(max(1, len(words) - 4)))
        rows.append(np.unique(np.fromiter(map(xxhash.xxh3_64_intdigest, grams), np.uint64)))
    sizes = np.array([row.size for row in rows])
    _, columns, uses = np.unique(np.concatenate(rows), return_inverse=True, return_counts=True)
    shared = uses[columns] > 1  # the rest are in no intersection
    owner = np.repeat(np.arange(sizes.size), sizes)[shared]
    ones = np.ones(owner.size, np.int32)
    has = csr_array((ones, (owner, columns[shared])), shape=(sizes.size, uses.size))
    held_by = has.T.tocsr()
    for start in range(0, sizes.size, BLOCK):
        common = (has[start : start + BLOCK] @ held_by).tocoo()
        a, b = common.row + start, common.col
        likeness = common.data / (sizes[a] + sizes[b] - common.data)
        found = np.flatnonzero((a < b) & (likeness >= LEAST))
        found = found[np.lexsort((b[found], a[found]))]
        yield from zip(a[found].tolist(), b[found].tolist(), likeness[found].tolist(), strict=True)


def main() -> None:
    """Make a corpus and its truth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", help="JSONL with real text, 10 MB or more")
    parser.add_argument("dir", type=Path)
    parser.add_argument("--megabytes", type=float, default=200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    asked.dir.mkdir(parents=True, exist_ok=True)
    texts = [record["text"] for record in read_records([asked.texts], required=["text"])]
    made = list(corpus(texts, round(1e6 * asked.megabytes), asked.seed))
    write_records(asked.dir / "docs.jsonl", made)
    pairs = [{"a": a, "b": b, "jaccard": j} for a, b, j in similar_pairs(document["text"] for document in made)]
    write_records(asked.dir / "truth.jsonl", pairs)
    alike = sum(pair["jaccard"] >= 0.8 for pair in pairs)
    size = sum(len(document["text"].encode()) for document in made)
    print(f"{len(made):,} documents, {size / 1e6:.1f} MB; {len(pairs):,} pairs, {alike:,} with 0.8 or more")


if __name__ == "__main__":
    main()
