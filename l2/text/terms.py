"""Whole words and terms of several words in a text, whatever their case.

The paper names no rule (§4.1), so all of it is ours. A text is folded first: NFKC, then Unicode case folding, so that
"É" is found however it was typed. A word is a run of letters, digits, underscores and combining marks; an apostrophe
or a hyphen ends it, so that "she's" contains "she". The words of a term may be joined by white space, hyphens and
apostrophes: "Two-Spirit" is found in "two spirit", and "Native American" not in "native. American".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from itertools import groupby

BLOCK = 1 << 20  # characters whose words are held at once: a document of 100 MB has 17 million

# \w has no combining marks, which stand in most words of Hindi. Those that choose the look of an emoji or an ideograph
# (U+FE00 and on, U+E0100 and on) are no letters.
MARKS = frozenset(c for c in map(chr, range(0x300, 0x20000)) if unicodedata.category(c) in ("Mn", "Mc"))
MARKS -= frozenset(map(chr, range(0xFE00, 0xFE10)))


def _ranges(characters: Iterable[str]) -> str:
    """What to put between the brackets of a character class: re compiles ranges 20 times faster than characters."""
    codes = enumerate(sorted(map(ord, characters)))
    runs = ([chr(code) for _, code in run] for _, run in groupby(codes, lambda pair: pair[1] - pair[0]))
    return "".join(f"{run[0]}-{run[-1]}" for run in runs)


WORD = rf"\w{_ranges(MARKS)}"
PLAIN = re.compile(r"\w+"), re.compile(r"\W")  # a word, and what ends a word
MARKED = re.compile(rf"[{WORD}]+"), re.compile(rf"[^{WORD}]")  # seven times slower, seldom needed
JOINT = r"[\s'’‐-]+"


def fold(text: str) -> str:
    """`text` as it is compared: NFKC, case folded."""
    return unicodedata.normalize("NFKC", text).casefold()


class Words:
    """A text folded and split once: how many words it has, and which."""

    def __init__(self, text: str) -> None:
        self.folded = fold(text)
        self.count, self.unique = 0, set[str]()
        word, gap = PLAIN if self.folded.isascii() or MARKS.isdisjoint(self.folded) else MARKED
        start = 0
        while start < len(self.folded):
            end = found.start() if (found := gap.search(self.folded, start + BLOCK)) else len(self.folded)
            block = word.findall(self.folded, start, end)
            self.count += len(block)
            self.unique.update(block)
            start = end


def canonical(term: str) -> str:
    """The words of `term`, folded, with one space between them; empty for a term without any."""
    return " ".join(MARKED[0].findall(fold(term)))


class Terms:
    """A list of terms to look for. They are named by their `canonical` form."""

    def __init__(self, terms: Iterable[str]) -> None:
        names = {canonical(term) for term in terms} - {""}
        self._single = frozenset(name for name in names if " " not in name)
        self._phrases = [(name, frozenset(name.split()), _pattern(name)) for name in sorted(names - self._single)]

    def found(self, words: Words) -> set[str]:
        """The terms in a text."""
        found = words.unique & self._single
        for name, parts, pattern in self._phrases:
            if parts <= words.unique and pattern.search(words.folded):
                found.add(name)
        return found


def _pattern(name: str) -> re.Pattern[str]:
    # The look-behind stands after the first word, since re searches fast for a pattern that starts with plain letters.
    first, *rest = name.split()
    return re.compile(rf"{first}(?<![{WORD}]{first}){JOINT}{JOINT.join(rest)}(?![{WORD}])")
