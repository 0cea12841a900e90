"""What reading and writing need beside products: in torch, and compiled where a C++ compiler is at hand.

torch.compile would take seconds in each process; these are built in two, once on a machine, so that a command
that writes ten answers gains by them too, and a run that goes on after a kill computes with what it began with.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from ctypes import c_double, c_float, c_int, c_int64, c_uint64, c_void_p
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from l2.files.compiled import SUMS, compiled
from l2.model.config import ModelConfig

SOURCE = Path(__file__).with_name("decode.cpp")
SCALARS = {torch.float32: "float", torch.bfloat16: "bf16"}

PAGE = 16  # decode.cpp
COUNT, ASKED, HELD, PARENT = 1, 2, 3, 4  # columns of `spans_of`

Pair = tuple[Tensor, Tensor]
RowStep = Callable[[int, int], Tensor]


def paged(tokens: int) -> int:
    """Slots that `tokens` take, in whole pages."""
    return -(-tokens // PAGE) * PAGE


Numbers = np.ndarray | Sequence[int] | int


def spans_of(
    counts_B: np.ndarray | Sequence[int], stride: Numbers, kv_heads: int, asked: Numbers = 1, parent: Numbers = -1
) -> np.ndarray:
    """Tokens that follow one another, int64 [B, 7], as `Span` in decode.cpp explains them; none holds any yet.

    They stand in the order of the spans, as their pages do, `stride` for each head; both are told to each span.
    """
    count, stride, asked, parent, held = np.broadcast_arrays(np.asarray(counts_B), stride, asked, parent, 0)
    first, place = count.cumsum() - count, (stride.cumsum() - stride) * kv_heads
    return np.stack((first, count, asked, held, parent, place, stride), axis=1).astype(np.int64)


class Kernels:
    """The functions of decode.cpp for tensors that are contiguous and on a CPU; see `attend` for the letters.

    Keys and values are KVCaches of whole pages; how keys lie within one, decode.cpp says.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._norm, self._attend, self._step_row = library.norm, library.attend, library.step_row
        self._draw = library.draw
        self._norm.argtypes = [c_void_p] * 3 + [c_int64] * 2 + [c_float, c_int]
        self._attend.argtypes = [c_void_p] * 9 + [c_int64] * 4 + [c_int]
        self._step_row.argtypes = [c_void_p] * 7 + [c_int64] * 8 + [c_float, c_int]
        self._draw.argtypes = [c_void_p] * 7 + [c_int64] * 3 + [c_uint64] + [c_double] * 3 + [c_int]

    def norm(self, x_BD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        """F.rms_norm over the channels."""
        out, threads = torch.empty_like(x_BD), torch.get_num_threads()
        self._norm(x_BD.data_ptr(), weight_D.data_ptr(), out.data_ptr(), *x_BD.shape, eps, threads)
        return out

    def attend(
        self, q_NX: Tensor, kv_NY: Pair, angles_SF: Pair, kept: Pair, kv_heads: int, spans: np.ndarray
    ) -> Tensor:
        """Attention of N tokens that are queries, keys and values at once, [N, H · C]; the cache `kept` takes them in.

        q_NX [N, H · C] and kv_NY, each [N, K · C], may be parts of wider rows. spans: see
        `spans_of`; tokens which are not asked for come out as anything.
        """
        out = q_NX.new_empty(q_NX.shape)
        tensors = q_NX, *kv_NY, *angles_SF, *kept
        assert all(tensor.stride(-1) == 1 for tensor in tensors) and kv_NY[0].stride(0) == kv_NY[1].stride(0)
        assert all(tensor.is_contiguous() for tensor in (*angles_SF, *kept)) and spans.flags.c_contiguous
        self._attend(
            *(tensor.data_ptr() for tensor in tensors), spans.ctypes.data, out.data_ptr(),
            q_NX.stride(0), kv_NY[0].stride(0), len(spans), kv_heads, torch.get_num_threads(),
        )  # fmt: skip
        return out

    def row(self, config: ModelConfig, layers: Sequence[Sequence[Tensor]], others: Sequence[Tensor]) -> RowStep:
        """A function (token, length) that writes a token at position `length` of the first row of a cache: its logits.

        layers: the weights of each, as `Layer` in decode.cpp orders them, and its keys and values [R, K, S, C];
        others: the embedding, the last norm, the head, cos and sin.
        """
        tensors = [tensor for layer in layers for tensor in layer]
        assert all(tensor.is_contiguous() for tensor in (*tensors, *others))
        pointers = (c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
        places = [tensor.data_ptr() for tensor in others]
        slots = layers[0][-1].shape[2] if layers else 0
        sizes = len(layers), config.dim, config.n_kv_heads, config.ffn_dim, config.vocab_size, slots // PAGE

        def step(token: int, length: int) -> Tensor:
            logits = torch.empty(1, config.vocab_size)
            threads = torch.get_num_threads()
            self._step_row(pointers, *places, logits.data_ptr(), token, length, *sizes, config.norm_eps, threads)
            return logits

        return step

    def draw(
        self,
        logits_BV: Tensor,
        seen_BV: Tensor | None,
        where: tuple[np.ndarray, np.ndarray, np.ndarray],
        seed: int,
        how: tuple[float, float, int, float],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens [B] and log-probabilities [B] as `engine.draw` has them, with the uniform numbers of `engine.uniform`.

        where: keys, samples and positions; how: temperature, top_p, top_k, repetition penalty of the tokens in `seen`,
        which takes in those that are drawn.
        """
        (B, V), (temperature, top_p, top_k, penalty) = logits_BV.shape, how
        tokens, logprobs = np.empty(B, dtype=np.int64), np.empty(B, dtype=np.float32)
        assert logits_BV.is_contiguous() and (seen_BV is None or seen_BV.is_contiguous())
        self._draw(
            logits_BV.data_ptr(), None if seen_BV is None else seen_BV.data_ptr(),
            *(array.ctypes.data for array in (*where, tokens, logprobs)),
            B, V, top_k, seed & (2**64 - 1), temperature, top_p, penalty, torch.get_num_threads(),
        )  # fmt: skip
        return tokens, logprobs


@functools.cache
def kernels(dtype: torch.dtype, head_dim: int, group: int) -> Kernels | None:
    """For heads of `head_dim` of which `group` share a key; None where they can't be built: torch does it all."""
    if dtype not in SCALARS:
        return None
    shape = [f"-DSCALAR={SCALARS[dtype]}", f"-DHEAD_DIM={head_dim}", f"-DGROUP={group}"]
    library = compiled(SOURCE, [*SUMS, "-fopenmp", *shape])
    return Kernels(library) if library else None


def attend(q_BHC: Tensor, kv_BKC: Pair, angles_SF: Pair, kept_RKSC: Pair, lengths_B: Tensor, used: int) -> Tensor:
    """Attention of one new token a row, [B, H · C], in torch; its key and value go into the cache of R >= B rows.

    angles_SF: cos and sin in fp32 of each position's angles, F = C / 2; lengths_B: how many tokens each row holds,
    which is the position of the new one; used: more than any of them.
    """
    (B, H, C), (k_RKSC, v_RKSC) = q_BHC.shape, kept_RKSC
    K = k_RKSC.shape[1]
    cos, sin = (table[lengths_B][:, None] for table in angles_SF)
    first, second = torch.cat((q_BHC, kv_BKC[0]), dim=1).float().chunk(2, dim=-1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(k_RKSC.dtype)
    rows = torch.arange(B, device=q_BHC.device)
    k_RKSC[rows, :, lengths_B] = turned[:, H:]
    v_RKSC[rows, :, lengths_B] = kv_BKC[1].to(v_RKSC.dtype)
    unseen_BS = torch.arange(used, device=q_BHC.device) > lengths_B[:, None]
    k, v = (cache[:B, :, :used].flatten(0, 1) for cache in kept_RKSC)
    scores = torch.bmm((turned[:, :H] * C**-0.5).reshape(B * K, H // K, C), k.transpose(1, 2)).view(B, H, used)
    weights = scores.float().masked_fill_(unseen_BS[:, None], float("-inf")).softmax(-1).to(v.dtype)
    return torch.bmm(weights.view(B * K, H // K, used), v).view(B, H * C).to(q_BHC.dtype)
