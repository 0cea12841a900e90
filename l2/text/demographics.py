"""Who is spoken of in a corpus: pronouns and identity terms (paper §4.1, Table 9)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from l2.files.errors import BadInput, L2Error
from l2.files.jsonl import read_records
from l2.text.terms import canonical

BUILT_IN = Path(__file__).with_name("descriptors.json")  # ours; the paper's are HolisticBias v1.1's

SHE = frozenset(["she", "her", "hers", "herself"])
HE = frozenset(["he", "him", "his", "himself"])
UNSPECIFIED = frozenset(["they", "them", "their", "theirs", "theirself", "themself", "themselves"])
# {group: {row: its pronouns}}, the two halves of Table 9a. The lists are PaLM 2's. Case is not regarded, so that "US"
# and a Roman "I" count too.
PRONOUNS: dict[str, dict[str, frozenset[str]]] = {
    "gender": {"she": SHE, "he": HE, "unspecified": UNSPECIFIED},
    "person": {
        "1st": frozenset(["i", "me", "my", "mine", "myself", "we", "us", "our", "ours", "ourselves"]),
        "2nd": frozenset(["you", "your", "yours", "yourself", "yourselves"]),
        "3rd": SHE | HE | UNSPECIFIED | frozenset(["it", "its", "itself"]),
    },
}
# Terms that mostly mean something else: the axes count them, the top terms leave them out. The first three are named in
# the paper, the others ours.
AMBIGUOUS = frozenset(["black", "straight", "white", "english", "polish"])

Descriptors = dict[str, tuple[str, ...]]  # {axis: canonical terms}


def load_descriptors(path: str | Path | None = None) -> Descriptors:
    """The identity terms by axis in a file: JSONL rows {axis, term}, or JSON {axis: terms}, where terms may be nested.

    In the nested form an object with a `descriptor` is that term, and a comma may follow the last of a list: so
    HolisticBias's own descriptors.json can be read. None: a list of ours. A term under two axes belongs to the last
    one, as in the paper, whose "lgbt" stands under sexual orientation alone. Raises L2Error where there is no such
    file, and BadInput for what is no list of terms.
    """
    path = Path(BUILT_IN if path is None else path)
    if not path.is_file():
        raise L2Error(f"{path}: no such file")
    axis_of: dict[str, str] = {}
    axes: dict[str, None] = {}
    for axis, term, where in _rows(path) if ".jsonl" in path.suffixes else _nested(path):
        name = canonical(term)
        if not name:
            raise BadInput(where, f"{term!r} without a word", "a term to look for")
        axes[axis] = None
        axis_of[name] = axis
    if not axis_of:
        raise BadInput(str(path), "no terms", "terms on at least one axis")
    return {axis: tuple(term for term, of in axis_of.items() if of == axis) for axis in axes}


def _rows(path: Path) -> Iterator[tuple[str, str, str]]:
    for record in read_records([path]):
        yield record.need("axis"), record.need("term"), record.where


def _nested(path: Path) -> Iterator[tuple[str, str, str]]:
    try:
        tree = orjson.loads(re.sub(rb",(?=\s*[\]}])", b"", path.read_bytes()))
    except orjson.JSONDecodeError as error:
        raise BadInput(str(path), f"no valid JSON ({error})", "a JSON object {axis: terms}") from None
    if not isinstance(tree, Mapping):
        raise BadInput(str(path), f"a JSON {type(tree).__name__}", "a JSON object {axis: terms}")
    for axis, branch in tree.items():
        for term in _leaves(branch, f"{path}: {axis}"):
            yield axis, term, f"{path}: {axis}"


def _leaves(tree: Any, where: str) -> Iterator[str]:
    branches = [tree]
    while branches:
        branch = branches.pop()
        if isinstance(branch, Mapping):
            branch = branch.get("descriptor", list(branch.values()))
        if isinstance(branch, str):
            yield branch
        elif isinstance(branch, list):
            branches += reversed(branch)
        else:
            raise BadInput(where, f"a {type(branch).__name__}", "terms as strings")
