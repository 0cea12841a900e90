"""Sequence classifiers of Hugging Face's layout, such as the HateBERT that scores toxicity in the paper (§4.1).

They run by `transformers`, which is imported here alone and when one is asked for; nothing is downloaded, and no code
that a directory brings is run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from l2.files.errors import BadInput, L2Error, UsageError

TOGETHER = 32  # lines read at once
MOST_TOKENS = 512  # of a line, or fewer where the model has no room; the rest of a longer line is not read

Probabilities = Callable[[Sequence[str]], list[float]]


def load_hf_classifier(directory: str | Path, label: str) -> Probabilities:
    """A function from lines to the probability of `label` for each, by the classifier in `directory`, on the CPU.

    The probability is a softmax over the labels or, where there is one label or config.json says
    multi_label_classification, each label's own sigmoid. Raises L2Error where transformers is not installed, BadInput
    for a directory that holds no classifier with its tokenizer, and UsageError for a label that it has not.
    """
    try:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging
    except ImportError:
        raise L2Error(f"{directory} needs transformers to run it; pip install transformers") from None
    torch.set_num_threads(1)  # sums come out the same in any number of processes
    logging.disable_progress_bar()  # the library prints nothing, nor lets others
    logging.set_verbosity_error()
    model, tokenizer = _load(directory, AutoModelForSequenceClassification, AutoTokenizer)
    labels = dict(sorted(model.config.id2label.items()))
    if label not in labels.values():
        raise UsageError(f"no label {label!r} in {directory}; it has {', '.join(labels.values())}")
    index = list(labels.values()).index(label)
    alone = len(labels) == 1 or model.config.problem_type == "multi_label_classification"
    room = getattr(model.config, "max_position_embeddings", MOST_TOKENS)
    most = min(tokenizer.model_max_length, room, MOST_TOKENS)

    @torch.inference_mode()
    def probabilities(lines: Sequence[str]) -> list[float]:
        found = [0.0] * len(lines)
        order = sorted(range(len(lines)), key=lambda i: len(lines[i]))
        for start in range(0, len(order), TOGETHER):
            part = order[start : start + TOGETHER]
            given = tokenizer(
                [lines[i] for i in part], padding=True, truncation=True, max_length=most, return_tensors="pt"
            )
            logits = model(**given).logits
            values = (logits.sigmoid() if alone else logits.softmax(-1))[:, index].tolist()
            for i, value in zip(part, values, strict=True):
                found[i] = value
        return found

    return probabilities


def _load(directory: str | Path, model_class: Any, tokenizer_class: Any) -> tuple[Any, Any]:
    """The model in fp32, ready to predict, and its tokenizer."""
    expected = "a sequence classifier with its tokenizer, in Hugging Face's layout"
    if not (Path(directory) / "config.json").is_file():
        raise BadInput(str(directory), "no config.json", expected)
    try:
        tokenizer = tokenizer_class.from_pretrained(directory, local_files_only=True)
        model, said = model_class.from_pretrained(directory, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise BadInput(str(directory), f"none that loads ({str(error).splitlines()[0]:.200})", expected) from None
    if said["missing_keys"]:
        raise BadInput(str(directory), f"no weight {sorted(said['missing_keys'])[0]!r}", expected)
    return model.float().eval(), tokenizer
