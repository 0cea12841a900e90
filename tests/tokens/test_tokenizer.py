"""The tokenizer against SentencePiece's own file format, a published model, and transformers."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from l2.files.errors import BadInput, L2Error, UsageError
from l2.tokens.chat import encode_dialog
from l2.tokens.tokenizer import PAPER_SETTINGS, Tokenizer, load_tokenizer, save_tokenizer, train_tokenizer
from tests.conftest import sentences

# paper.md §1.3, as it stands there.
TRAINER = {
    "model_type": 2,  # BPE
    "vocab_size": 380,
    "character_coverage": 0.99995,
    "input_sentence_size": 200000000,
    "shuffle_input_sentence": True,
    "seed_sentencepiece_size": 1000000,
    "shrinking_factor": 0.75,
    "num_sub_iterations": 2,
    "num_threads": 80,
    "max_sentence_length": 4192,
    "max_sentencepiece_length": 16,
    "split_by_unicode_script": True,
    "split_by_whitespace": True,
    "split_by_number": True,
    "split_digits": True,
    "treat_whitespace_as_suffix": False,
    "allow_whitespace_only_pieces": True,
    "byte_fallback": True,
    "vocabulary_output_piece_score": True,
    "hard_vocab_limit": True,
    "use_all_vocab": False,
    "self_test_sample_size": 0,
    "train_extremely_large_corpus": False,
    "input_format": "text",
    "required_chars": "",
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "pad_id": -1,
    "unk_piece": "<unk>",
    "bos_piece": "<s>",
    "eos_piece": "</s>",
    "pad_piece": "<pad>",
    "unk_surface": " ⁇ ",
}
NORMALIZER = {
    "name": "identity",
    "add_dummy_prefix": True,
    "remove_extra_whitespaces": False,
    "precompiled_charsmap": b"",
}

# Text without U+2581, which SentencePiece itself uses for the space.
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=60)


def parsed(sentencepiece_model, model_bytes):
    model = sentencepiece_model.ModelProto()
    model.ParseFromString(model_bytes)
    return model


def test_the_file_holds_the_settings_of_the_paper(tokenizer, sentencepiece_model):
    model = parsed(sentencepiece_model, tokenizer.model_bytes)
    found = {name: getattr(model.trainer_spec, name) for name in TRAINER}
    assert found == TRAINER | {"character_coverage": pytest.approx(0.99995)}
    assert {name: getattr(model.normalizer_spec, name) for name in NORMALIZER} == NORMALIZER


def test_the_settings_are_those_of_a_published_model(tokenizer, published, sentencepiece_model):
    """Field by field, except for what was read and what was written."""
    ours = parsed(sentencepiece_model, tokenizer.model_bytes)
    theirs = parsed(sentencepiece_model, published)
    assert theirs.trainer_spec.vocab_size == 32000
    for model in (ours, theirs):
        for name in ("input", "model_prefix", "vocab_size"):
            model.trainer_spec.ClearField(name)
    for kind in ("trainer_spec", "normalizer_spec"):
        a, b = getattr(ours, kind), getattr(theirs, kind)
        for field in b.DESCRIPTOR.fields:
            assert getattr(a, field.name) == getattr(b, field.name), field.name


def test_layout_of_the_vocabulary(tokenizer, sentencepiece_model):
    """Control pieces, 256 bytes, merges in the order of their ranks, and then single characters (paper.md §1.3)."""
    pieces = parsed(sentencepiece_model, tokenizer.model_bytes).pieces
    assert [p.piece for p in pieces[:3]] == ["<unk>", "<s>", "</s>"]
    assert [p.piece for p in pieces[3:259]] == [f"<0x{i:02X}>" for i in range(256)]
    merges = [len(p.piece) > 1 for p in pieces[259:]]
    assert merges == sorted(merges, reverse=True) and 0 < sum(merges) < len(merges)
    assert [p.score for p in pieces[259:]] == [-i for i in range(len(pieces) - 259)]
    assert tokenizer.encode("\n")[-1] == 13  # the byte 0x0A, as in the golden ids of paper.md §11


def test_threads_and_order_change_nothing(tmp_path, sentencepiece_model):
    lines, tokenizer = sentences(300), train_tokenizer(sentences(300), 340, tmp_path / "a.model")
    assert train_tokenizer(reversed(lines), 340, tmp_path / "b.model").model_bytes == tokenizer.model_bytes
    assert (tmp_path / "a.model").read_bytes() == tokenizer.model_bytes
    alone = io.BytesIO()
    settings = PAPER_SETTINGS | {"num_threads": 1, "vocab_size": 340, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=alone, **settings)
    one, many = (parsed(sentencepiece_model, b) for b in (alone.getvalue(), tokenizer.model_bytes))
    assert one.pieces == many.pieces


def test_documents_are_learned_line_by_line(tmp_path):
    """Lines of one document are lines like any other; those over 4,192 bytes are left out and counted."""
    lines, notes = sentences(300), []
    whole = train_tokenizer(["\n".join(lines)], 340, tmp_path / "a")
    apart = train_tokenizer([*lines, "", "é" * 2097], 340, tmp_path / "b", on_progress=lambda *n: notes.append(n))
    assert whole.model_bytes == apart.model_bytes
    assert notes[-1] == (302, None, "1 lines over 4,192 bytes skipped")
    assert notes[-2] == (301, None, "")
    longest = train_tokenizer([*lines, "é" * 2096], 340, tmp_path / "c")  # 4,192 bytes: still learned from
    assert longest.model_bytes != whole.model_bytes


@pytest.mark.parametrize("size, found", [(5000, "Please set it to a value <= "), (270, "Increase vocab_size")])
def test_a_size_out_of_reach_says_what_is_possible(tmp_path, size, found):
    with pytest.raises(UsageError) as error:
        train_tokenizer(sentences(200), size, tmp_path / "t")
    assert found in str(error.value) and not list(tmp_path.iterdir())
    if size == 5000:
        largest = int(str(error.value).rpartition("<= ")[2].rstrip(".)"))
        assert train_tokenizer(sentences(200), largest, tmp_path / "t").vocab_size == largest
        with pytest.raises(UsageError):
            train_tokenizer(sentences(200), largest + 1, tmp_path / "t")


@pytest.mark.parametrize("texts", [[], ["", "\n\n"], ["x" * 4193]])
def test_nothing_to_learn_from(texts, tmp_path):
    with pytest.raises(BadInput, match="text to learn from"):
        train_tokenizer(texts, 300, tmp_path / "t")


def test_errors_of_the_source_come_through_sentencepiece(tmp_path):
    def torn():
        yield "a whole line"
        raise BadInput("docs.jsonl:2", "half a line", "a whole one")

    with pytest.raises(BadInput, match=r"docs\.jsonl:2"):
        train_tokenizer(torn(), 300, tmp_path / "t")


def test_a_nul_byte_is_learned_as_a_space(tmp_path):
    models = [train_tokenizer([*sentences(200), f"zq{c}zq"] * 2, 330, tmp_path / "t").model_bytes for c in "\0 "]
    assert models[0] == models[1]


def test_sentencepiece_is_silent(tmp_path):
    """In a process of its own, because some of its warnings come only once."""
    code = """
import sys
from l2.files.errors import BadInput
from l2.tokens.tokenizer import load_tokenizer, train_tokenizer
from tests.conftest import sentences
data = train_tokenizer(sentences(200), 330, sys.argv[1]).model_bytes
for broken in (b"", b"no model", data[:200]):
    open(sys.argv[1], "wb").write(broken)
    try:
        load_tokenizer(sys.argv[1])
    except BadInput as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "t"], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (
        3 * f"{tmp_path}/t: found no SentencePiece model; expected a tokenizer.model\n",
        "",
    )


def test_load_from_file_and_directory(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path)
    for path in (tmp_path, tmp_path / "tokenizer.model", str(tmp_path)):
        assert load_tokenizer(path).sha256 == tokenizer.sha256
    with pytest.raises(L2Error, match="no such file"):
        load_tokenizer(tmp_path / "nowhere")
    other = io.BytesIO()
    settings = {"sentence_iterator": iter(sentences(50)), "model_writer": other, "vocab_size": 40, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(**settings, pad_id=0, unk_id=3)
    (tmp_path / "other.model").write_bytes(other.getvalue())
    with pytest.raises(BadInput, match=r"at \(3, 1, 2\); expected ids \(0, 1, 2\)"):
        load_tokenizer(tmp_path / "other.model")


@given(text)
def test_round_trip(tokenizer, words):
    """No text is unknown, and decoding gives it back to the byte, but for the first of spaces at its start."""
    ids = tokenizer.encode(words)
    assert not {0, 1, 2} & set(ids)
    assert tokenizer.decode([1, *ids, 2, 0, 0]) == words


@given(st.lists(text, max_size=20), st.integers(1, 3))
def test_a_batch_is_its_texts(mixed_tokenizer, texts, threads):
    assert mixed_tokenizer.encode_batch(texts, threads) == [mixed_tokenizer.encode(words) for words in texts]


@given(text)
def test_ends_cut_the_text_where_pieces_end(mixed_tokenizer, words):
    ids, ends = mixed_tokenizer.encode_with_ends(words)
    assert ids == mixed_tokenizer.encode(words)
    assert ends == sorted(ends) and all(0 <= end <= len(words) for end in ends)
    for i, end in enumerate(ends):
        if i + 1 == len(ends) or ends[i + 1] > end:  # not within the bytes of one character
            head = mixed_tokenizer.decode(ids[: i + 1])
            assert head in (words[:end], words[:end] + "\ufffd" * head.count("\ufffd"))


def test_special_pieces_in_text_are_text(mixed_tokenizer):
    for words in ("<s>", "</s> x", "<unk>", "<pad>", "<0x0A>"):
        assert not {0, 1, 2, 13} & set(mixed_tokenizer.encode(words))
        assert mixed_tokenizer.decode(mixed_tokenizer.encode(words)) == words
    assert mixed_tokenizer.encode("") == []
    assert mixed_tokenizer.encode("\0\0")[-2:] == [3, 3]


def test_digits_stand_alone(mixed_tokenizer):
    pieces = mixed_tokenizer._pieces.id_to_piece(mixed_tokenizer.encode("1234 x31"))
    assert [piece.strip("\u2581") for piece in pieces if piece[-1].isdigit()] == list("123431")


def test_a_very_long_line_takes_reasonable_time(published):
    tokenizer = Tokenizer(published)
    start = time.monotonic()
    ids = tokenizer.encode("^" * 10**6)
    assert time.monotonic() - start < 10
    assert tokenizer.decode(ids) == "^" * 10**6


@pytest.fixture(scope="module")
def transformers(sentencepiece_model):
    return pytest.importorskip("transformers")


ALPHABET = ["a", "the ", " ", "  ", "    ", "\n", "\t", "1", "234", "é", "кош", "漢", "\u200b", "[", "]", "<", "x = "]


def dialog(rng: random.Random) -> list[dict]:
    """A random dialog in which the pieces of ALPHABET meet in every way."""
    words = ["".join(rng.choices(ALPHABET, k=rng.randrange(12))) for _ in range(5)]
    roles = ["system", "user", "assistant", "user", "assistant"][rng.randrange(2) : rng.randrange(2, 6)]
    turns = [{"role": role, "content": content} for role, content in zip(roles, words, strict=False)]
    return turns if turns[0]["role"] == "user" or len(turns) > 1 else dialog(rng)


def load_theirs(transformers, tokenizer: Tokenizer, directory: Path):
    save_tokenizer(tokenizer, directory)
    return transformers.AutoTokenizer.from_pretrained(directory)


def test_transformers_gives_the_same_ids(transformers, mixed_tokenizer, tmp_path):
    """As text and as ids, "[" after <s> included, which `legacy` decides."""
    theirs = load_theirs(transformers, mixed_tokenizer, tmp_path)
    assert (len(theirs), theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (580, 1, 2, 0)
    rng = random.Random(0)
    for _ in range(1000):
        messages = dialog(rng)
        ids = theirs.apply_chat_template(messages, tokenize=True)["input_ids"]
        assert ids == encode_dialog(mixed_tokenizer, messages).ids, messages
    words = "The cat sat on\n the mat 12."
    assert theirs(words)["input_ids"] == [1, *mixed_tokenizer.encode(words)]


def test_transformers_marks_the_same_answers(transformers, mixed_tokenizer, tmp_path):
    """What transformers' own `generation` block marks is what is learned, with the space and EOS that end it."""
    theirs = load_theirs(transformers, mixed_tokenizer, tmp_path)
    spoken = "{{ ' ' + content.strip() + ' ' + eos_token }}"
    assert spoken in theirs.chat_template
    template = theirs.chat_template.replace(spoken, f"{{% generation %}}{spoken}{{% endgeneration %}}")
    rng = random.Random(1)
    for _ in range(1000):
        messages = dialog(rng)
        made = theirs.apply_chat_template(
            messages, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
        )
        encoded = encode_dialog(mixed_tokenizer, messages)
        assert made["input_ids"] == encoded.ids
        assert [bool(mark) for mark in made["assistant_masks"]] == encoded.learn, messages


def test_transformers_and_a_published_model(transformers, published, tmp_path):
    tokenizer = Tokenizer(published)
    theirs = load_theirs(transformers, tokenizer, tmp_path)
    messages = [
        {"role": "system", "content": "You are a poet.\nAnswer in verse."},
        {"role": "user", "content": " Où est la 图书馆? 3.14 [x] "},
        {"role": "assistant", "content": "Là-bas,\n\nà côté — tabs\tand 🧿 too.\n"},
        {"role": "user", "content": "Thanks"},
    ]
    assert theirs.apply_chat_template(messages, tokenize=True)["input_ids"] == encode_dialog(tokenizer, messages).ids


def test_the_template_refuses_roles_out_of_turn(transformers, tokenizer, tmp_path):
    theirs = load_theirs(transformers, tokenizer, tmp_path)
    for roles in (["assistant"], ["user", "user"], ["user", "system"], ["user", "assistant", "tool"]):
        with pytest.raises(Exception, match="role"):
            theirs.apply_chat_template([{"role": role, "content": "x"} for role in roles], tokenize=False)
