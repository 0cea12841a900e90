"""The quality classifier: the same bytes twice, held-out texts told apart, and every way to be no classifier."""

from __future__ import annotations

import random
import sys

import fasttext
import pytest

from l2.files.errors import BadInput, L2Error, UsageError
from l2.files.jsonl import write_records
from l2.text.classifier import load_quality, train_quality

WORDS = """the history of this river begins with a treaty that two kings signed in an old town near its mouth
buy cheap pills now click here best price free shipping order online win casino bonus call today"""
PROSE, SPAM = map(str.split, WORDS.splitlines())


def documents(words: list[str], count: int, seed: int) -> list[dict]:
    rng = random.Random(seed)
    return [
        {"text": "\n".join(" ".join(rng.choices([*words, "and", "you"], k=12)) for _ in range(4))} for _ in range(count)
    ]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    path = tmp_path_factory.mktemp("train")
    write_records(path / "good.jsonl", [*documents(PROSE, 100, 0), {"text": "__label__other words"}, {"text": ""}])
    write_records(path / "other.jsonl", documents(SPAM, 120, 1))
    return path / "good.jsonl", path / "other.jsonl"


@pytest.fixture(scope="module", params=[".ftz", ".bin"])
def model(request, sources, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / f"q{request.param}"
    assert train_quality(*sources, path) == {"positive": 102, "negative": 120}
    return path


def test_the_same_documents_give_the_same_bytes(model, sources, tmp_path):
    again = tmp_path / f"again{model.suffix}"
    train_quality(*sources, again)
    assert again.read_bytes() == model.read_bytes()
    if model.suffix == ".bin":  # the quantiser may hide so small a change
        train_quality(*sources, again, seed=1)
        assert again.read_bytes() != model.read_bytes()


def test_held_out_texts_are_told_apart(model):
    quality = load_quality(model)
    assert all(quality(document["text"]) > 0.9 for document in documents(PROSE, 50, 2))
    assert all(quality(document["text"]) < 0.1 for document in documents(SPAM, 50, 3))
    assert all(0 <= quality(text) <= 1 for text in ("", "\n", "\0", "日本語", "__label__hq", "word " * 5000))


def test_the_label_is_read_wherever_it_stands(sources, tmp_path):
    """Labels come most frequent first; a model of two runs of fastText itself, with more labels than two."""
    lines = tmp_path / "lines.txt"
    lines.write_text("__label__cc a b\n__label__cc a c\n__label__hq x y\n__label__zz p q\n" * 50)
    trained = fasttext.train_supervised(input=str(lines), dim=4, lr=1.0, epoch=20, thread=1, verbose=0)
    trained.save_model(str(tmp_path / "three.bin"))
    quality = load_quality(tmp_path / "three.bin")
    for text in ("x y", "a b", "p q", "x\ny"):
        labels, probabilities = trained.predict([text.replace("\n", " ")], k=3)
        theirs = dict(zip(labels[0], probabilities[0], strict=True))
        assert quality(text) == pytest.approx(min(theirs["__label__hq"], 1), abs=1e-4)
    assert quality("x y") > 0.9 > 0.1 > quality("a b")


def test_what_is_no_quality_classifier(lid_model, sources, tmp_path):
    with pytest.raises(BadInput, match=r"found labels __label__.*; expected a fastText model with a label __label__hq"):
        load_quality(lid_model)
    with pytest.raises(L2Error, match=r"none\.ftz: no such file"):
        load_quality(tmp_path / "none.ftz")
    with pytest.raises(UsageError, match=r"ends in \.ftz or \.bin, not to -"):
        train_quality(*sources, "-")


def test_a_fasttext_that_only_predicts_is_told_in_one_sentence(sources, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fasttext", type(sys)("fasttext"))
    with pytest.raises(L2Error, match="fasttext can't train; pip uninstall fasttext-predict"):
        train_quality(*sources, tmp_path / "q.ftz")
    assert not (tmp_path / "q.ftz").exists()
