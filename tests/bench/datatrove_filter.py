"""datatrove's filters with l2's parameters, for tests/bench/filter.py; run by a Python that has datatrove and spacy.

python tests/bench/datatrove_filter.py DOCS MOST SET [KEPT]: SET is gopher, c4, fineweb or all; prints documents a
second. With KEPT, writes {set: indices of the documents kept} for every set to that file.
"""

from __future__ import annotations

import json
import sys
import time

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)

c4 = C4QualityFilter(min_num_sentences=3, min_words_per_line=5, filter_no_terminal_punct=True, remove_citations=False)
SETS = {
    "gopher": [GopherQualityFilter(), GopherRepetitionFilter()],
    "c4": [c4],
    "fineweb": [FineWebQualityFilter()],
}
SETS["all"] = [*SETS["gopher"], *SETS["fineweb"], *SETS["c4"]]  # c4 last, as it takes lines out


def kept(texts: list[str], name: str) -> list[int]:
    documents = [Document(text=text, id=str(i)) for i, text in enumerate(texts)]
    return [i for i, document in enumerate(documents) if all(f.filter(document) is True for f in SETS[name])]


path, most, name, *out = sys.argv[1:]
with open(path) as f:
    texts = [json.loads(line)["text"] for line, _ in zip(f, range(int(most)), strict=False)]
kept(texts[:20], name)  # loads spacy
start = time.perf_counter()
kept(texts, name)
rate = len(texts) / (time.perf_counter() - start)
if out:
    with open(out[0], "w") as f:
        json.dump({name: kept(texts, name) for name in SETS}, f)
print(f"{rate:.1f}")
