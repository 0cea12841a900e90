"""How toxic a text is, from 0 to 1: by a list of words, or by a classifier (paper §4.1, Figure 13).

The paper scores each line with a HateBERT fine-tuned on ToxiGen and averages over the lines of a document. Classifiers
of fastText and of Hugging Face's layout are averaged in the same way; what a list of words does is ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from l2.files.errors import BadInput, L2Error, UsageError
from l2.text.fasttext_model import LABEL, is_fasttext, load_predict
from l2.text.hf_classifier import Probabilities, load_hf_classifier
from l2.text.terms import Terms, Words, canonical

OWN_WORDS = Path(__file__).with_name("toxic_words.txt")  # short and weak: the file says how
TOXIC = 0.5  # paper Figure 13: a document at or above this is toxic
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n")

Score = Callable[[str], float]


def load_words(path: str | Path) -> list[str]:
    """The terms of a UTF-8 text file, one a line; blank lines and lines that start with # are none.

    Raises L2Error where there is no such file, BadInput for a line without a word or a file without a term.
    """
    path = Path(path)
    if not path.is_file():
        raise L2Error(f"{path}: no such file")
    terms = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            term = line.decode().strip()
        except UnicodeDecodeError:
            raise BadInput(f"{path}:{number}", "invalid UTF-8", "a term to look for") from None
        if term and not term.startswith("#"):
            if not canonical(term):
                raise BadInput(f"{path}:{number}", f"{term!r} without a word", "a term to look for")
            terms.append(term)
    if not terms:
        raise BadInput(str(path), "no terms", "one term a line")
    return terms


def named_label(given: str) -> tuple[str, Path]:
    """The label and the path of LABEL=PATH; of a bare PATH the label is "toxic"."""
    label, _, path = given.partition("=")
    if not path or "/" in label:  # a path may hold a "=", too
        label, path = "toxic", given
    return label, Path(path)


def load_toxicity(given: str = str(OWN_WORDS)) -> Score:
    """The score by what stands at the path of `given` (see `named_label`), a list of words of our own by default.

    A directory is a classifier of Hugging Face's layout, a file that begins with fastText's number is one of fastText,
    and any other is a list of words. A classifier gives the probability of the label. Raises what `by_hf_model`,
    `by_model` and `load_words` raise.
    """
    label, path = named_label(given)
    if path.is_dir():
        return by_hf_model(path, label)
    return by_model(path, label) if is_fasttext(path) else by_words(load_words(path))


def by_words(terms: Iterable[str]) -> Score:
    """The share of sentences with a listed term in them (ours).

    Newlines, and white space after . ! or ?, separate sentences; those without a word don't count.
    """
    listed = Terms(terms)

    def score(text: str) -> float:
        if not listed.found(Words(text)):  # as most texts
            return 0.0
        sentences = listing = 0
        for words in map(Words, SENTENCE_END.split(text)):
            sentences += words.count > 0
            listing += bool(listed.found(words))
        return listing / sentences

    return score


def by_model(path: str | Path, label: str = "toxic") -> Score:
    """The probability of `label` by a fastText classifier, averaged over the lines that are not blank.

    A text without such a line scores 0. Raises L2Error where there is no such file, BadInput for one that is no
    fastText classifier, and UsageError for a label that it has not.
    """
    predict = load_predict(Path(path), "a fastText classifier")
    labels = sorted(name.removeprefix(LABEL) for _, name in predict("", -1))
    if label not in labels:
        raise UsageError(f"no label {label!r} in {path}; it has {', '.join(labels)}")

    def probability(line: str) -> float:
        return next((p for p, name in predict(line, -1) if name == LABEL + label), 0.0)

    return _averaged(lambda lines: list(map(probability, lines)))


def by_hf_model(directory: str | Path, label: str = "toxic") -> Score:
    """The same by a sequence classifier of Hugging Face's layout; raises what `load_hf_classifier` raises."""
    return _averaged(load_hf_classifier(directory, label))


def _averaged(probabilities: Probabilities) -> Score:
    """The mean over the lines of a text that are not blank (paper Figure 13); 0 where there are none."""

    def score(text: str) -> float:
        lines = [line for line in text.split("\n") if line.strip()]
        return sum(probabilities(lines)) / len(lines) if lines else 0.0

    return score
