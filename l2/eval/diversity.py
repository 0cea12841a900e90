"""How alike the answers to one prompt are: Self-BLEU (paper §5.1, Figure 21; Zhu et al. 2018, arXiv 1802.01886)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

ORDER = 4  # BLEU-4 (Papineni et al. 2002)
UNSEEN = 0.1  # matches that an order without a match counts for (Chen and Cherry 2014, method 1; NLTK's value)
TOKEN = re.compile(r"\w+|[^\w\s]")

Grams = Counter[tuple[str, ...]]


def words(text: str) -> list[str]:
    """A text in words and marks, lower case."""
    return TOKEN.findall(text.lower())


def _grams(tokens: Sequence[str], n: int) -> Grams:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


class _Most:
    """Of each n-gram, the two highest counts in a text: what is left when one of the texts is taken away."""

    def __init__(self, texts: Sequence[Grams]) -> None:
        self.first: Grams = Counter()
        self.second: Grams = Counter()
        for grams in texts:
            for gram, count in grams.items():
                if count > self.first[gram]:
                    self.second[gram], self.first[gram] = self.first[gram], count
                elif count > self.second[gram]:
                    self.second[gram] = count

    def without(self, gram: tuple[str, ...], count: int) -> int:
        """The highest count of `gram` in the texts, less one text that has it `count` times."""
        return self.second[gram] if self.first[gram] == count else self.first[gram]


def self_bleu(texts: Sequence[str]) -> float:
    """The mean BLEU-4 of each text against all the others: 0 for no word in common, 1 where they are all the same.

    (Of fewer than ORDER words, equal texts stay below 1, as the orders that they lack count UNSEEN.)

    A text without words scores 1 where another has none either, and 0 otherwise (ours). Raises ValueError for fewer
    than two texts.
    """
    if len(texts) < 2:
        raise ValueError("one text is like nothing")
    tokens = [words(text) for text in texts]
    lengths = [len(row) for row in tokens]
    grams = [[_grams(row, n) for row in tokens] for n in range(1, ORDER + 1)]
    most = [_Most(each) for each in grams]
    return math.fsum(_against(i, lengths, grams, most) for i in range(len(texts))) / len(texts)


def _against(i: int, lengths: Sequence[int], grams: Sequence[Sequence[Grams]], most: Sequence[_Most]) -> float:
    """BLEU of text `i` against the others."""
    others = [*lengths[:i], *lengths[i + 1 :]]
    if not lengths[i]:
        return float(0 in others)
    logs = 0.0
    for order, of_texts in zip(most, grams, strict=True):
        matches = sum(min(count, order.without(gram, count)) for gram, count in of_texts[i].items())
        if not matches and order is most[0]:
            return 0.0
        logs += math.log((matches or UNSEEN) / max(1, sum(of_texts[i].values())))
    closest = min(others, key=lambda length: (abs(length - lengths[i]), length))
    return math.exp(min(0.0, 1 - closest / lengths[i]) + logs / ORDER)
