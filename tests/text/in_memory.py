"""Near copies of documents whose keys and shingles fit into memory: what the spills of a corpus are held against."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from l2.files.spills import shared
from l2.text.duplicates import Hashes, survivors


def near_duplicates(keys_DB: Hashes, shingles_of: Callable[[int], Hashes]) -> dict[int, tuple[int, float]]:
    """`survivors` among D documents by their band keys."""
    numbers = np.arange(len(keys_DB))
    pairs = [shared(key_D, numbers) for key_D in keys_DB.T]
    documents, firsts = (np.concatenate(column) for column in zip(*pairs, strict=True))
    bands = np.repeat(np.arange(len(pairs)), [members.size for members, _ in pairs])
    return survivors(documents, firsts * len(pairs) + bands, shingles_of)
