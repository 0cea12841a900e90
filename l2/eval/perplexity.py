"""Perplexity of documents under a model of ours, for CCNet's head, middle and tail (LLaMA-1 §2.1).

CCNet (Wenzek et al. 2019, arXiv 1911.00359, §3.4) takes the perplexity per piece of a 5-gram model. Per byte it can be
compared between tokenizers (ours): 2 to the power of the bits per byte that `l2 evaluate` measures.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log

import torch

from l2.eval.scored import windows
from l2.generate.scoring import loglikelihood
from l2.model.checkpoint import check_vocabulary, load_language_model
from l2.model.device import keep_memory, pick_device
from l2.tokens.tokenizer import load_tokenizer

WORST = 256.0  # of a model that knows nothing of a byte; beyond it differences say nothing


def load_perplexity(directory: str, device: str = "auto") -> Callable[[str], float]:
    """A function from a text to its perplexity per byte (UTF-8), from 1 to WORST, by the checkpoint in `directory`.

    The text is predicted with its end, after BOS, in windows that overlap by half. In fp32, and each text by itself:
    its score depends on nothing that is scored beside it. On one core, for the same reason: more cores are for more
    processes. Raises L2Error for a missing file, BadInput for one that is no language model with its tokenizer, and
    L2Error for weights that give no numbers.
    """
    keep_memory()
    torch.set_num_threads(1)
    model = load_language_model(directory, device=pick_device(device))
    tokenizer = load_tokenizer(directory)
    check_vocabulary(model.config, tokenizer, directory)

    def perplexity(text: str) -> float:
        row = [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]
        contexts, continuations = zip(*windows(row, model.config.max_seq_len), strict=True)
        nats = -sum(loglikelihood(model, contexts, continuations))
        return round(exp(min(nats / max(1, len(text.encode())), log(WORST))), 4)

    return perplexity
