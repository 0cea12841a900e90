"""How strongly a model still looks at its instruction, turn by turn (paper §3.3, Figure 10)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from l2.align.ghost import Turn
from l2.generate.engine import Completion
from l2.model.transformer import Attention, Block, LanguageModel, Where, rotate
from l2.tokens.chat import B_INST, B_SYS, encode_prompt
from l2.tokens.tokenizer import Tokenizer


def attention_weights(attention: Attention, x_BTD: Tensor, where: Where) -> Tensor:
    """softmax(q·k / √C) [B, H, T, S] in fp32 of normed inputs: what `Attention` weighs its values by."""
    B, T, _ = x_BTD.shape
    q = attention.q_proj(x_BTD).view(B, T, attention.heads, attention.head_dim).transpose(1, 2)
    k = attention.k_proj(x_BTD).view(B, T, attention.kv_heads, attention.head_dim).transpose(1, 2)
    q, k = rotate(q, where.cos, where.sin), rotate(k, where.cos, where.sin)
    k = k.repeat_interleave(attention.heads // attention.kv_heads, dim=1)
    scores = torch.matmul(q.float(), k.float().transpose(-2, -1)) * attention.head_dim**-0.5
    weights: Tensor = scores.masked_fill(~where.mask, float("-inf")).softmax(dim=-1)
    return weights


@torch.no_grad()
def attention_maxima(model: LanguageModel, ids: Sequence[int], first: int, last: int) -> Tensor:
    """[T]: for each of `ids`, the largest weight that any head of any layer gives any of the ids `first` to `last` - 1.

    All of a layer's weights are held at once: T² numbers a head.
    """
    tokens_BT = torch.tensor([ids], device=model.device)
    where = Where(model.config, torch.arange(len(ids), device=model.device)[None], None, None)
    maxima_T = torch.zeros(len(ids), device=model.device)
    x_BTD = model.model.embed_tokens(tokens_BT)
    for block in model.model.layers:
        assert isinstance(block, Block)
        weights = attention_weights(block.self_attn, block.input_layernorm(x_BTD), where)
        maxima_T = torch.maximum(maxima_T, weights[0, :, :, first:last].amax(dim=(0, 2)))
        x_BTD = block(x_BTD, where)
    return maxima_T


def instruction_span(tokenizer: Tokenizer, turn: Turn) -> tuple[int, int]:
    """The first id of the system message in the ids of a first turn, and the one behind its last.

    Where a piece goes over its edge, that piece is not of it. BOS, on which much attention rests whatever is said, is
    never in it.
    """
    whole = encode_prompt(tokenizer, turn)[1:]

    def shared(text: str) -> int:
        ids = tokenizer.encode(text)
        return next((i for i, (a, b) in enumerate(zip(whole, ids, strict=False)) if a != b), len(ids))

    opening = f"{B_INST} {B_SYS}"
    return 1 + shared(opening), 1 + shared(opening + turn[0]["content"])


def attention_by_turn(
    model: LanguageModel, tokenizer: Tokenizer, turns: Sequence[Turn], answers: Sequence[Completion]
) -> list[float]:
    """For each answer of a dialog, the mean over its ids of their largest weight on the instruction of the first turn.

    The paper shows the largest activations across the network as a map, neighbouring tokens together; the mean over
    an answer, one number a turn, is ours. An answer without ids has 0.
    """
    ids: list[int] = []
    spans = []
    for turn, answer in zip(turns, answers, strict=False):
        ids += encode_prompt(tokenizer, turn)
        spans.append((len(ids), len(ids) + len(answer.tokens)))
        ids += answer.tokens if answer.finish == "stop" else [*answer.tokens, tokenizer.eos_id]
    maxima_T = attention_maxima(model, ids, *instruction_span(tokenizer, turns[0]))
    return [float(maxima_T[first:last].mean()) if last > first else 0.0 for first, last in spans]
