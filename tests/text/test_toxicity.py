"""Scores by words are shares of sentences counted by hand; those by a model are fastText's own."""

from __future__ import annotations

import pytest

from l2.files.errors import BadInput, L2Error, UsageError
from l2.text.terms import canonical
from l2.text.toxicity import OWN_WORDS, by_model, by_words, load_toxicity, load_words


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("", 0.0),
        ("---\n\n", 0.0),
        ("All is well.", 0.0),
        ("Drat!", 1.0),
        ("Drat! All is well.", 1 / 2),
        ("DRAT it all, drat!\nWell. ... \n--\nOh blasted\tthing? No", 2 / 4),
        ("The dratted thing is at e.g.example.", 0.0),
        ("a blasted\nthing", 0.0),  # in the text, and in none of its sentences
    ],
)
def test_the_share_of_sentences_with_a_listed_word(text, score):
    assert by_words(["drat", "blasted thing"])(text) == score


def test_a_file_of_terms(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes("# mild ones\r\ndrat\r\n\n  blasted thing \nSch\u00e4ndlich".encode())
    assert load_words(path) == ["drat", "blasted thing", "Schändlich"]
    for content, sentence in (
        (b"drat\n\xff\n", r":2: found invalid UTF-8"),
        (b"drat\n\n!!\n", r":3: found '!!' without a word"),
        (b"# none\n\n", "found no terms"),
        (b"", "found no terms"),
    ):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=sentence):
            load_words(path)
    with pytest.raises(L2Error, match="no such file"):
        load_words(tmp_path / "none.txt")


def test_our_own_words_are_rude_and_have_no_innocent_meaning():
    score = load_toxicity()
    for rude in ("Kill yourself!", "you FUCKING idiot", "They are all subhuman."):
        assert score(rude) == 1.0
    innocent = "A bastard file. The dyke held the sea. He shot a raccoon and killed the vermin. Dick fagged out."
    assert score(innocent) == 0.0
    words = load_words(OWN_WORDS)
    assert len(words) == len({canonical(word) for word in words})


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A fastText model that knows rude lines from kind ones."""
    import fasttext

    folder = tmp_path_factory.mktemp("toxicity")
    rude = [f"__label__toxic you {word} fool number {i}" for i in range(40) for word in ("rotten", "vile")]
    kind = [f"__label__nontoxic you {word} friend number {i}" for i in range(40) for word in ("dear", "good")]
    (folder / "train.txt").write_text("\n".join(rude + kind) + "\n")
    model = fasttext.train_supervised(str(folder / "train.txt"), dim=4, epoch=20, thread=1, verbose=0)
    model.save_model(str(folder / "toxic.bin"))
    return folder / "toxic.bin"


def test_the_mean_of_fasttexts_own_probabilities(classifier):
    import fasttext

    lines = ["you vile fool", "you dear friend", "number 7", "a line without a known word", "nul \0 and 😀"]
    labels, probabilities = fasttext.load_model(str(classifier)).predict(lines, k=2)
    truth = [
        min(1.0, dict(zip(names, map(float, ps), strict=True))["__label__toxic"])
        for names, ps in zip(labels, probabilities, strict=True)
    ]
    toxic, kind = by_model(classifier), by_model(classifier, "nontoxic")
    assert truth[0] > 0.9 > 0.1 > truth[1]
    for line, expected in zip(lines, truth, strict=True):
        assert toxic(line) == pytest.approx(expected, abs=1e-6)
        assert kind(line) == pytest.approx(1 - expected, abs=1e-4)
    assert toxic("\n \n" + "\n\n".join(lines) + "\r\n") == pytest.approx(sum(truth) / len(truth), abs=1e-5)
    assert toxic("") == toxic(" \n\t\n") == 0.0


def test_no_classifier_and_no_such_label(classifier, tmp_path):
    with pytest.raises(UsageError, match=r"no label 'nsfw' in .*; it has nontoxic, toxic"):
        by_model(classifier, "nsfw")
    with pytest.raises(L2Error, match="no such file"):
        by_model(tmp_path / "none.bin")
    (tmp_path / "text.bin").write_text("no model")
    with pytest.raises(BadInput, match=r"text\.bin: found no fastText model .*; expected a fastText classifier"):
        by_model(tmp_path / "text.bin")


def test_words_or_a_model_told_by_what_the_file_is(classifier, tmp_path):
    (tmp_path / "words.txt").write_text("fool\n")
    text = "you vile fool\nyou dear friend"
    assert load_toxicity(str(tmp_path / "words.txt"))(text) == 1 / 2
    assert load_toxicity(str(classifier))(text) == by_model(classifier)(text) > 0.4
    assert load_toxicity(f"nontoxic={classifier}")(text) == by_model(classifier, "nontoxic")(text)
    (tmp_path / "a=b").write_text("friend\n")
    assert load_toxicity(str(tmp_path / "a=b"))(text) == 1 / 2
    with pytest.raises(L2Error, match="no such file"):
        load_toxicity(str(tmp_path / "none"))


def test_a_classifier_cut_short_is_refused(classifier, tmp_path):
    """fastText itself would go on with whatever is in memory."""
    cut = tmp_path / "cut.bin"
    cut.write_bytes(classifier.read_bytes()[:-100])
    with pytest.raises(BadInput, match="bytes of a longer model"):
        by_model(cut)
