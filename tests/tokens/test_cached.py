"""The word cache against SentencePiece's own ids: on hostile text, cut anywhere it may be, with a cache of any size."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from l2.tokens import cached
from l2.tokens.cached import CachedEncoder, PlainEncoder, make_encoder, read_rules
from l2.tokens.tokenizer import Tokenizer
from tests.conftest import sentences

U2 = np.dtype("<u2")
HOSTILE = [
    " ",
    "  ",
    "   ",
    "\n",
    "\r\n",
    "\t",
    "\0",
    "\x01",
    "\u2581",
    "\u2581\u2581",
    "<s>",
    "</s>",
    "<unk>",
    "<0x0A>",
]
PLAIN = ["a", "the", "return", "12", "3.14", "é", "Кош", "漢字", "図", "🧿", "\u200b", "\xa0", "[INST]", "(x):", "^^^^"]
text = st.one_of(
    st.lists(st.sampled_from(HOSTILE + PLAIN), max_size=30).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    st.lists(st.sampled_from(sentences(20)), max_size=8).map("\n".join),
)


def ids_of(encoder, words: str, length: int = 2**18) -> list[int]:
    return np.frombuffer(b"".join(map(encoder.encode, encoder.parts(words, length))), U2).tolist()


@pytest.fixture(scope="module")
def worlds(tokenizer, mixed_tokenizer) -> list[tuple[sentencepiece.SentencePieceProcessor, CachedEncoder]]:
    models = [tokenizer.model_bytes, mixed_tokenizer.model_bytes]
    return [(sentencepiece.SentencePieceProcessor(model_proto=m), make_encoder(m, U2)) for m in models]


@given(text, st.integers(1, 20))
def test_the_ids_are_those_of_sentencepiece(worlds, words, length):
    """Warm and cold (the encoders live through all examples), whole and in parts."""
    for pieces, encoder in worlds:
        assert isinstance(encoder, CachedEncoder)
        assert ids_of(encoder, words) == ids_of(encoder, words, length) == pieces.encode(words)


@given(st.lists(text, max_size=5))
def test_a_small_cache_and_short_words(mixed_tokenizer, texts):
    """Generations that turn at every word, and words all of which are long."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=mixed_tokenizer.model_bytes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cached, "GENERATION", 3)
        patch.setattr(cached, "LONGEST", 2)
        encoder = make_encoder(mixed_tokenizer.model_bytes, U2)
        assert [ids_of(encoder, words) for words in texts * 2] == pieces.encode(texts * 2)


@given(text, st.integers(1, 20))
def test_a_published_vocabulary(published_pair, words, length):
    pieces, encoder = published_pair
    assert isinstance(encoder, CachedEncoder)
    assert ids_of(encoder, words, length) == pieces.encode(words)


@pytest.fixture(scope="module")
def published_pair(published):
    return sentencepiece.SentencePieceProcessor(model_proto=published), make_encoder(published, U2)


def test_memory_is_bounded(mixed_tokenizer, monkeypatch):
    monkeypatch.setattr(cached, "GENERATION", 100)
    encoder = make_encoder(mixed_tokenizer.model_bytes, U2)
    for i in range(2000):
        encoder.encode(f" word{i} the {'x' * 500}{i}")
        assert len(encoder._words) <= 110 and len(encoder._words._old) <= 110
        assert max(map(len, encoder._words)) <= cached.LONGEST
    assert " the" in encoder._words  # what is met all the time is kept


@pytest.mark.parametrize("unit", ["^", " ", "ab", "漢", "漢字図", "0", "\n", "=-", "\u2581"])
def test_a_long_run_takes_little_time(published, unit):
    """Linear: no run of anything costs more than SentencePiece's own second or so for it."""
    encoder, words = make_encoder(published, U2), unit * (600_000 // len(unit))
    start = time.monotonic()
    ids = ids_of(encoder, words)
    assert time.monotonic() - start < 10
    assert Tokenizer(published).decode(ids) == words.replace("\u2581", " ")


def test_parts_are_about_as_long_as_asked(mixed_tokenizer):
    encoder = make_encoder(mixed_tokenizer.model_bytes, U2)
    words = "\n".join(sentences(300))
    parts = list(encoder.parts(words, 100))
    assert "".join(parts) == " " + words
    assert all(100 <= len(part) < 140 for part in parts[:-1])
    assert list(encoder.parts("", 100)) == [""] and encoder.encode("") == b""


def test_fields_are_those_of_protobuf(published, sentencepiece_model):
    """Every piece, and every setting that decides."""
    model = sentencepiece_model.ModelProto()
    model.ParseFromString(published)
    joined = {a + b for p in model.pieces if p.type == 1 for a, b in zip(p.piece, p.piece[1:], strict=False)}
    rules = read_rules(published)
    assert rules.pairs == {pair.replace("\u2581", " ") for pair in joined}
    assert (rules.prefix, rules.why_plain) == (True, None)


def without_bytes(model) -> None:
    model.trainer_spec.byte_fallback = False
    for piece in model.pieces[3:259]:
        piece.type = 1


CHANGES = {
    "it is not BPE": lambda m: setattr(m.trainer_spec, "model_type", 1),
    "it has no byte fallback": lambda m: without_bytes(m),
    "its spaces end words": lambda m: setattr(m.trainer_spec, "treat_whitespace_as_suffix", True),
    "it removes spaces": lambda m: setattr(m.normalizer_spec, "remove_extra_whitespaces", True),
    "its spaces stay spaces": lambda m: setattr(m.normalizer_spec, "escape_whitespaces", False),
    "it has user-defined or unused pieces": lambda m: setattr(m.pieces[400], "type", 4),
    "a piece reaches into the next word": lambda m: setattr(m.pieces[400], "piece", "a\u2581b"),
    "a piece holds a newline": lambda m: setattr(m.pieces[400], "piece", "a\n"),
}


@pytest.mark.parametrize("reason", CHANGES)
def test_what_is_not_known_to_be_exact_is_left_to_sentencepiece(mixed_tokenizer, sentencepiece_model, reason):
    model = sentencepiece_model.ModelProto()
    model.ParseFromString(mixed_tokenizer.model_bytes)
    CHANGES[reason](model)
    data = model.SerializeToString()
    assert read_rules(data).why_plain == reason
    pieces, encoder = sentencepiece.SentencePieceProcessor(model_proto=data), make_encoder(data, U2)
    assert isinstance(encoder, PlainEncoder)
    for words in ["a b\n  the cat", " a\n", "", "\u2581x  "]:
        assert ids_of(encoder, words, 1) == pieces.encode(words)


def test_a_model_that_normalises(tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences(200)), model_writer=model, vocab_size=330, model_type="bpe", minloglevel=2,
        byte_fallback=True, remove_extra_whitespaces=False, normalization_rule_name="nfkc",
    )  # fmt: skip
    assert read_rules(model.getvalue()).why_plain == "it normalises text"


@given(text)
def test_a_model_without_a_prefix(mixed_tokenizer, words):
    data = mixed_tokenizer.model_bytes + cached.NO_PREFIX
    encoder = make_encoder(data, U2)
    assert isinstance(encoder, CachedEncoder)
    assert ids_of(encoder, words, 5) == sentencepiece.SentencePieceProcessor(model_proto=data).encode(words)
