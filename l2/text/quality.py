"""Is this text worth training on? The rules of Gopher (Rae et al. 2021, arXiv 2112.11446, §A1.1), of C4 (Raffel et
al. 2020, arXiv 1910.10683, §2.2) and of FineWeb (Penedo et al. 2024, arXiv 2406.17557, §3.6), each a measure of the
page and the bounds that it must keep.

Where the papers leave a choice it is ours: words are runs of non-space characters, lines and paragraphs are those with
something on them, and a share of characters is taken over the characters of all words (or lines, or paragraphs).
C4's line rules drop no line here (l2/text/lines.py does); they decide which lines count as sentences. Its list of bad
words is left out, as Llama 2 leaves toxicity in (paper §4.1). FineWeb's bounds are those of the code that made it,
datatrove's FineWebQualityFilter: the paper writes 0.1 where the code has 0.01, and leaves out the fourth rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

from l2.files.errors import UsageError
from l2.text.lines import ELLIPSES, c4_fault
from l2.text.thresholds import Threshold

RULE_SETS = ("gopher", "c4", "fineweb")
DEFAULT_SETS = ("gopher", "c4")
STOP_WORDS = frozenset(["the", "be", "to", "of", "and", "that", "have", "with"])  # Gopher §A1.1
BULLETS = ("•", "‣", "◦", "●", "▪", "-", "*")  # Gopher names no characters: ours
FINEWEB_LINE_ENDS = tuple(".!?\"'”’…。．！？؟۔।")  # datatrove's five, and what ends a sentence in other scripts (ours)
FINEWEB_SHORT_LINE = 30  # characters
PARAGRAPH_BREAK = re.compile(r"\n\s*\n")
SENTENCE_END = re.compile(r"[.!?][\"”’')\]]*(?=\s|$)")


class Page:
    """A text and its words, lines and paragraphs, split once for all rules."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.words = text.split()
        self.lines = _stripped(text.splitlines())

    @cached_property
    def paragraphs(self) -> list[str]:
        """What blank lines separate."""
        return _stripped(PARAGRAPH_BREAK.split(self.text))

    @cached_property
    def word_chars(self) -> int:
        """Characters in all words together."""
        return sum(map(len, self.words))

    @cached_property
    def repeats(self) -> dict[int, list[list[int]]]:
        """For n = 2..10, the start positions of each word n-gram that occurs more than once, in reading order.

        An n-gram is named by where it first stood, and is the pair of (n-1)-grams in it. It can occur twice only
        where both of them do, so that each n looks at fewer positions.
        """
        positions: Sequence[int] = range(len(self.words) - 1)
        names: Sequence[str] | dict[int, int] = self.words
        found: dict[int, list[list[int]]] = {}
        for n in range(2, 11):
            first: dict[tuple[str | int, str | int], int] = {}
            groups: dict[int, list[int]] = {}
            for i in positions:
                name = first.setdefault((names[i], names[i + 1]), i)
                if name != i:
                    groups.setdefault(name, [name]).append(i)
            found[n] = list(groups.values())
            names = {i: name for name, group in groups.items() for i in group}
            positions = sorted(i for i in names if i + 1 in names)
        return found


def _stripped(parts: Sequence[str]) -> list[str]:
    return [part for part in map(str.strip, parts) if part]


def _share(count: int, total: int) -> float:
    return count / total if total else 0.0


def words(page: Page) -> float:
    """Number of words: 50 to 100,000 (Gopher §A1.1)."""
    return len(page.words)


def mean_word_length(page: Page) -> float:
    """Characters in a word on average: 3 to 10 (Gopher §A1.1)."""
    return _share(page.word_chars, len(page.words))


def hash_ratio(page: Page) -> float:
    """Hash signs for each word: at most 0.1 (Gopher §A1.1)."""
    return _share(page.text.count("#"), len(page.words))


def ellipsis_ratio(page: Page) -> float:
    """Ellipses for each word: at most 0.1 (Gopher §A1.1)."""
    return _share(sum(map(page.text.count, ELLIPSES)), len(page.words))


def bullet_lines(page: Page) -> float:
    """Share of lines that start with a bullet: at most 0.9 (Gopher §A1.1)."""
    return _share(sum(line.startswith(BULLETS) for line in page.lines), len(page.lines))


def ellipsis_lines(page: Page) -> float:
    """Share of lines that end with an ellipsis: at most 0.3 (Gopher §A1.1)."""
    return _share(sum(line.endswith(ELLIPSES) for line in page.lines), len(page.lines))


def alphabetic_words(page: Page) -> float:
    """Share of words with an alphabetic character: at least 0.8 (Gopher §A1.1)."""
    return _share(sum(word.isalpha() or any(map(str.isalpha, word)) for word in page.words), len(page.words))


def stop_words(page: Page) -> float:
    """How many of eight common English words occur: at least 2 (Gopher §A1.1)."""
    return len(STOP_WORDS.intersection(map(str.lower, page.words)))


def _duplicates(parts: list[str]) -> float:
    return _share(len(parts) - len(set(parts)), len(parts))


def _duplicate_chars(parts: list[str]) -> float:
    total = sum(map(len, parts))
    return _share(total - sum(map(len, set(parts))), total)


def duplicate_lines(page: Page) -> float:
    """Share of lines that an earlier line equals: at most 0.30 (Gopher Table A1)."""
    return _duplicates(page.lines)


def duplicate_line_chars(page: Page) -> float:
    """Share of characters in such lines: at most 0.20 (Gopher Table A1), at most 0.01 (FineWeb's code)."""
    return _duplicate_chars(page.lines)


def duplicate_paragraphs(page: Page) -> float:
    """Share of paragraphs that an earlier paragraph equals: at most 0.30 (Gopher Table A1)."""
    return _duplicates(page.paragraphs)


def duplicate_paragraph_chars(page: Page) -> float:
    """Share of characters in such paragraphs: at most 0.20 (Gopher Table A1)."""
    return _duplicate_chars(page.paragraphs)


def _covered(page: Page, starts: Sequence[int], n: int) -> float:
    """Share of characters in the n-grams at `starts`; where they overlap, a word counts once."""
    inside = {i + offset for i in starts for offset in range(n)}
    return _share(sum(len(page.words[i]) for i in inside), page.word_chars)


def top_ngram(page: Page, n: int) -> float:
    """Share of characters in the most frequent word n-gram, n = 2..4: at most 0.20, 0.18, 0.16 (Gopher Table A1).

    Of equally frequent ones the one that covers most counts. One that occurs once repeats nothing, and is no
    top n-gram (ours; it matters only below the paper's 50 words).
    """
    most = max(map(len, page.repeats[n]), default=0)
    return max((_covered(page, group, n) for group in page.repeats[n] if len(group) == most), default=0.0)


def duplicate_ngrams(page: Page, n: int) -> float:
    """Share of characters in word n-grams seen before, n = 5..10: at most 0.15 down to 0.10 (Gopher Table A1)."""
    return _covered(page, [i for group in page.repeats[n] for i in group[1:]], n)


def lorem_ipsum(page: Page) -> float:
    """Occurrences of "lorem ipsum": none (C4 §2.2)."""
    return page.text.lower().count("lorem ipsum")


def curly_brackets(page: Page) -> float:
    """Opening curly brackets, the mark of code: none (C4 §2.2)."""
    return page.text.count("{")


def sentences(page: Page) -> float:
    """Sentences in the lines that C4 would keep: at least 3 (C4 §2.2)."""
    return sum(len(SENTENCE_END.findall(line)) for line in page.lines if c4_fault(line) is None)


def punctuated_lines(page: Page) -> float:
    """Share of lines that end in punctuation: at least 0.12 (FineWeb §3.6)."""
    return _share(sum(line.endswith(FINEWEB_LINE_ENDS) for line in page.lines), len(page.lines))


def short_lines(page: Page) -> float:
    """Share of lines of 30 characters or fewer: at most 0.67 (FineWeb §3.6)."""
    return _share(sum(len(line) <= FINEWEB_SHORT_LINE for line in page.lines), len(page.lines))


def newline_ratio(page: Page) -> float:
    """Line breaks for each word: at most 0.3, or it is a list (datatrove; it counts punctuation marks as words)."""
    return _share(page.text.count("\n"), len(page.words))


class Rule(NamedTuple):
    """A page passes where least <= measure(page) <= most. `english` rules are silent about other languages."""

    name: str
    measure: Callable[[Page], float]
    least: float = float("-inf")
    most: float = float("inf")
    english: bool = False

    @property
    def bounds(self) -> list[float]:
        """Those of the two that there are."""
        return [bound for bound in (self.least, self.most) if abs(bound) != float("inf")]

    def moved(self, threshold: Threshold) -> Rule:
        """The rule with another bound, the lower one where it has two, or with two others.

        Raises UsageError for two where it has one, and for one beyond the upper.
        """
        if isinstance(threshold, tuple) and len(self.bounds) == 1:
            raise UsageError(f"{self.name} has one bound, not {threshold[0]:g} and {threshold[1]:g}")
        if isinstance(threshold, tuple):
            return self._replace(least=threshold[0], most=threshold[1])
        if self.least == float("-inf"):
            return self._replace(most=threshold)
        if threshold > self.most:
            raise UsageError(f"{self.name} of at least {threshold:g} and at most {self.most:g} leaves nothing")
        return self._replace(least=threshold)


def rules(sets: Iterable[str] = DEFAULT_SETS, thresholds: Mapping[str, Threshold] | None = None) -> list[Rule]:
    """The rules of `sets` in the order in which they are asked, cheap ones first.

    `thresholds` of some names replace the published ones (see `Rule.moved`); names of other rules are passed over.
    Raises UsageError for a set not in RULE_SETS.
    """
    thresholds = thresholds or {}
    sets = frozenset(sets)
    if unknown := sorted(sets - set(RULE_SETS)):
        raise UsageError(f"no set of quality rules {', '.join(unknown)!r}; there are {', '.join(RULE_SETS)}")
    # fmt: off
    table = [
        Rule("gopher_words", words, least=50, most=100_000),
        Rule("gopher_mean_word_length", mean_word_length, least=3, most=10),
        Rule("gopher_hash_ratio", hash_ratio, most=0.1),
        Rule("gopher_ellipsis_ratio", ellipsis_ratio, most=0.1),
        Rule("gopher_bullet_lines", bullet_lines, most=0.9),
        Rule("gopher_ellipsis_lines", ellipsis_lines, most=0.3),
        Rule("gopher_alphabetic_words", alphabetic_words, least=0.8),
        Rule("gopher_stop_words", stop_words, least=2, english=True),
        Rule("fineweb_punctuated_lines", punctuated_lines, least=0.12),
        Rule("fineweb_short_lines", short_lines, most=0.67),
        Rule("fineweb_newline_ratio", newline_ratio, most=0.3),
        Rule("c4_lorem_ipsum", lorem_ipsum, most=0),
        Rule("c4_curly_brackets", curly_brackets, most=0),
        Rule("c4_sentences", sentences, least=3),
        Rule("gopher_duplicate_lines", duplicate_lines, most=0.30),
        Rule("gopher_duplicate_line_chars", duplicate_line_chars, most=0.20),
        Rule("fineweb_duplicate_line_chars", duplicate_line_chars, most=0.01),
        Rule("gopher_duplicate_paragraphs", duplicate_paragraphs, most=0.30),
        Rule("gopher_duplicate_paragraph_chars", duplicate_paragraph_chars, most=0.20),
        *(Rule(f"gopher_top_{n}gram", partial(top_ngram, n=n), most=most)
          for n, most in zip(range(2, 5), (0.20, 0.18, 0.16), strict=True)),
        *(Rule(f"gopher_duplicate_{n}grams", partial(duplicate_ngrams, n=n), most=most)
          for n, most in zip(range(5, 11), (0.15, 0.14, 0.13, 0.12, 0.11, 0.10), strict=True)),
    ]
    # fmt: on
    table = [rule for rule in table if rule_set(rule.name) in sets]
    return [rule.moved(thresholds[rule.name]) if rule.name in thresholds else rule for rule in table]


def rule_set(name: str) -> str:
    """Which of RULE_SETS a rule belongs to."""
    return name.partition("_")[0]


class Finding(NamedTuple):
    """What one rule found in one document: `value`, which was held against `threshold`."""

    rule: str
    value: Any
    threshold: Any
    passes: bool


def findings(page: Page, table: Sequence[Rule], language: str | None = None) -> Iterator[Finding]:
    """What each rule of `table` finds, in order; a rule is measured only when its finding is asked for.

    language: code of the page's language, or None where it is not known, which counts as English. The threshold is
    the bound that a bad page broke; of a good one the bound or, where there are two, [least, most].
    """
    for rule in table:
        if rule.english and language not in (None, "en"):
            continue
        value = rule.measure(page)
        if value < rule.least:
            yield Finding(rule.name, value, rule.least, False)
        elif value > rule.most:
            yield Finding(rule.name, value, rule.most, False)
        else:
            yield Finding(rule.name, value, rule.bounds[0] if len(rule.bounds) == 1 else rule.bounds, True)
