"""Toxicity by a Hugging Face classifier: its own logits, line by line, from a small model made here."""

from __future__ import annotations

import json
import sys

import pytest

from l2.files.errors import BadInput, L2Error, UsageError
from l2.text.toxicity import load_toxicity

LINES = ["you vile fool", "you dear friend of mine and of all", "", "  ", "unknown \0 😀 words " * 40, "fool"]


def save(folder, labels, **changes):
    """A BERT of two layers with random weights, and a tokenizer of words."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "you", "vile", "fool", "dear", "friend", "of", "all"]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, id2label=dict(enumerate(labels)), initializer_range=2.0, **changes,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("labels", "changes", "alone"),
    [
        (["kind", "toxic", "odd"], {}, False),
        (["toxic", "insult"], {"problem_type": "multi_label_classification"}, True),
        (["toxic"], {}, True),
    ],
)
def test_the_mean_over_lines_of_the_models_own_probabilities(tmp_path, capfd, labels, changes, alone):
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification

    folder = save(tmp_path / "model", labels, **changes)
    model, tokenizer = BertForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    truth = []
    for line in filter(str.strip, LINES):  # one at a time, so that nothing is padded
        with torch.inference_mode():
            logits = model(**tokenizer(line, truncation=True, max_length=32, return_tensors="pt")).logits[0]
        truth.append(float((logits.sigmoid() if alone else logits.softmax(-1))[labels.index("toxic")]))
    assert max(truth) - min(truth) > 0.01
    capfd.readouterr()
    score = load_toxicity(folder)
    assert capfd.readouterr() == ("", "")
    assert score("\n".join(LINES)) == pytest.approx(sum(truth) / len(truth), abs=1e-5)
    assert score("\n".join(LINES * 20)) == pytest.approx(sum(truth) / len(truth), abs=1e-5)
    for line, expected in zip(filter(str.strip, LINES), truth, strict=True):
        assert score(line) == pytest.approx(expected, abs=1e-5)
    assert score("") == score(" \n\n") == 0.0


def test_what_is_no_classifier_or_has_not_the_label(tmp_path, model_dir, monkeypatch):
    folder = save(tmp_path / "model", ["LABEL_0", "LABEL_1"])
    with pytest.raises(UsageError, match=r"no label 'toxic' in .*; it has LABEL_0, LABEL_1"):
        load_toxicity(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"found no config\.json; expected a sequence classifier"):
        load_toxicity(tmp_path / "empty")
    (tmp_path / "empty/config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(BadInput, match="expected a sequence classifier"):
        load_toxicity(tmp_path / "empty")
    with pytest.raises(BadInput, match="expected a sequence classifier"):
        load_toxicity(model_dir)  # a language model has no such head
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(L2Error, match=r"needs transformers to run it; pip install transformers"):
        load_toxicity(folder)
