"""The word cache against SentencePiece's own ids: on hostile text, cut anywhere it may be, with a cache of any size."""

from __future__ import annotations

import io
import pickle
import random
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from l2.files.compiled import compiled
from l2.tokens import cached
from l2.tokens.cached import CachedEncoder, CompiledWords, PlainEncoder, Words, make_encoder, read_rules
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


def in_python(model: bytes) -> CachedEncoder:
    """As it is where there is no compiler."""
    rules = read_rules(model)
    return CachedEncoder(rules, Words(model, rules, U2))


@pytest.fixture(scope="module")
def worlds(tokenizer, mixed_tokenizer, published) -> list[tuple[sentencepiece.SentencePieceProcessor, list]]:
    """Vocabularies, and their encoders, which live through all examples: cold at first, then warm."""
    models = [tokenizer.model_bytes, mixed_tokenizer.model_bytes, published]
    worlds = [
        (sentencepiece.SentencePieceProcessor(model_proto=model), [make_encoder(model, U2), in_python(model)])
        for model in models
    ]
    assert all(isinstance(encoders[0].words, CompiledWords) for _, encoders in worlds), "no C++ compiler"
    return worlds


@given(text, st.integers(1, 20))
def test_the_ids_are_those_of_sentencepiece(worlds, words, length):
    """Whole and in parts."""
    for pieces, encoders in worlds:
        for encoder in encoders:
            assert ids_of(encoder, words) == ids_of(encoder, words, length) == pieces.encode(words)


def test_real_text(worlds):
    """A document of this length, prose and code, and its words in any order."""
    documents = [Path(__file__).read_text(), Path(__file__).parents[2].joinpath("LOG.md").read_text()]
    shuffled = random.Random(0).sample(words := " ".join(documents).split(" "), len(words))
    for pieces, encoders in worlds:
        for document in [*documents, " ".join(shuffled), "".join(shuffled)]:
            expected = pieces.encode(document)
            assert all(ids_of(encoder, document) == expected for encoder in encoders)


@settings(deadline=None)  # it is compiled the first time
@given(st.lists(text, max_size=5))
def test_a_small_cache_and_short_words(mixed_tokenizer, texts):
    """Generations that turn at every word, and words all of which are long."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=mixed_tokenizer.model_bytes)
    small = compiled(cached.SOURCE, ["-DID=uint16_t", "-DWORDS=3", "-DLETTERS=9", "-DLONGEST=5"])
    rules = read_rules(mixed_tokenizer.model_bytes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cached, "GENERATION", 3)
        patch.setattr(cached, "LONGEST", 2)
        for encoder in (in_python(mixed_tokenizer.model_bytes), CachedEncoder(rules, CompiledWords(small, rules, U2))):
            assert [ids_of(encoder, words) for words in texts * 2] == pieces.encode(texts * 2)


def test_memory_is_bounded(mixed_tokenizer, monkeypatch):
    monkeypatch.setattr(cached, "GENERATION", 100)
    encoder = in_python(mixed_tokenizer.model_bytes)
    for i in range(2000):
        encoder.encode(f" word{i} the {'x' * 500}{i}")
        assert len(encoder.words) <= 110 and len(encoder.words._old) <= 110
        assert max(map(len, encoder.words)) <= cached.LONGEST
    assert " the" in encoder.words  # what is met all the time is kept


def test_more_words_than_are_remembered(published):
    """The compiled cache forgets them all now and then, and stays as large as it is."""
    pieces, encoder = sentencepiece.SentencePieceProcessor(model_proto=published), make_encoder(published, U2)
    many = [" ".join(f"w{i}" for i in range(start, start + 60_000)) for start in range(0, 1_200_000, 60_000)]
    for i, words in enumerate(many):
        ids = ids_of(encoder, words)
        if i == 1:
            before = resident()
        if i % 9 == 0:
            assert ids == pieces.encode(words)
    assert resident() - before < 60e6


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("unit", ["^", " ", "ab", "漢", "漢字図", "0", "\n", "=-", "\u2581"])
def test_a_long_run_takes_little_time(published, unit):
    """Linear: no run of anything costs more than SentencePiece's own second or so for it."""
    words = unit * (600_000 // len(unit))
    for encoder in (make_encoder(published, U2), in_python(published)):
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
    "a piece holds a space": lambda m: setattr(m.pieces[400], "piece", "a b"),
    "a control piece is a character": lambda m: setattr(m.pieces[1], "piece", "\ue000"),
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
    expected = sentencepiece.SentencePieceProcessor(model_proto=data).encode(words)
    assert ids_of(make_encoder(data, U2), words, 5) == ids_of(in_python(data), words, 5) == expected


def test_a_tokenizer_takes_its_rules_to_another_process(published, monkeypatch):
    sent = pickle.dumps(Tokenizer(published))
    monkeypatch.setattr(cached, "read_rules", lambda _: pytest.fail("read again"))
    arrived = pickle.loads(sent)
    assert ids_of(arrived.encoder(U2), "Hello, world") == Tokenizer(published).encode("Hello, world")
