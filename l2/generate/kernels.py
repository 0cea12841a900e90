"""What a decoder of one token a row needs beside products: in torch, and compiled where a C++ compiler is at hand.

torch.compile would take seconds in each process; these are built in half a second, once on a machine, so that a command
that writes ten answers gains by them too, and a run that goes on after a kill computes with what it began with.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from ctypes import c_float, c_int, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from l2.files.compiled import compiled
from l2.model.config import ModelConfig

SOURCE = Path(__file__).with_name("decode.cpp")
SCALARS = {torch.float32: "float", torch.bfloat16: "bf16"}
# sums may be taken in any order, so that they can be vectorised; -ffast-math would also flush denormals in all of torch
SUMS = ["-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"]
FLAGS = [*SUMS, "-fopenmp"]

RowStep = Callable[[Tensor, int], Tensor]


class Kernels:
    """The functions of decode.cpp for tensors that are contiguous and on a CPU; see `attend` for the letters."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._norm, self._attend, self._step_row = library.norm, library.attend, library.step_row
        self._norm.argtypes = [c_void_p] * 3 + [c_int64] * 2 + [c_float]
        self._attend.argtypes = [c_void_p] * 7 + [c_int64] * 3 + [c_int]
        self._step_row.argtypes = [c_void_p] * 7 + [c_int64] * 7 + [c_float, c_int]

    def norm(self, x_BD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        """F.rms_norm over the channels."""
        out = torch.empty_like(x_BD)
        self._norm(x_BD.data_ptr(), weight_D.data_ptr(), out.data_ptr(), *x_BD.shape, eps)
        return out

    def attend(
        self, qkv_BX: Tensor, cos_SF: Tensor, sin_SF: Tensor, k_RKSC: Tensor, v_RKSC: Tensor, lengths_B: Tensor
    ) -> Tensor:
        """See `attend`."""
        (B, X), (_, K, S, C) = qkv_BX.shape, k_RKSC.shape
        out = qkv_BX.new_empty(B, X - 2 * K * C)
        tensors = qkv_BX, cos_SF, sin_SF, k_RKSC, v_RKSC, lengths_B, out
        assert all(tensor.is_contiguous() for tensor in tensors)
        self._attend(*(tensor.data_ptr() for tensor in tensors), B, K, S, torch.get_num_threads())
        return out

    def row(self, config: ModelConfig, layers: Sequence[Sequence[Tensor]], others: Sequence[Tensor]) -> RowStep:
        """A function (x_1D, length) that writes a token at position `length` of the first row of a cache: its logits.

        layers: the weights of each, as `Layer` in decode.cpp orders them, and its keys and values [R, K, S, C];
        others: the last norm, the head, cos and sin. x_1D: the token's embedding in fp32, [1, D], which is overwritten.
        """
        tensors = [tensor for layer in layers for tensor in layer]
        assert all(tensor.is_contiguous() for tensor in (*tensors, *others))
        pointers = (c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
        places = [tensor.data_ptr() for tensor in others]
        slots = layers[0][-1].shape[2] if layers else 0
        sizes = len(layers), config.dim, config.n_kv_heads, config.ffn_dim, config.vocab_size, slots

        def step(x_1D: Tensor, length: int) -> Tensor:
            logits = torch.empty(1, config.vocab_size)
            threads = torch.get_num_threads()
            self._step_row(
                pointers, *places, x_1D.data_ptr(), logits.data_ptr(), length, *sizes, config.norm_eps, threads
            )
            return logits

        return step


@functools.cache
def kernels(dtype: torch.dtype, head_dim: int, group: int) -> Kernels | None:
    """For heads of `head_dim` of which `group` share a key; None where they can't be built: torch does it all."""
    if dtype not in SCALARS:
        return None
    shape = [f"-DSCALAR={SCALARS[dtype]}", f"-DHEAD_DIM={head_dim}", f"-DGROUP={group}"]
    library = compiled(SOURCE, [*FLAGS, *shape])
    return Kernels(library) if library else None


def attend(qkv_BX: Tensor, cos_SF: Tensor, sin_SF: Tensor, k_RKSC: Tensor, v_RKSC: Tensor, lengths_B: Tensor) -> Tensor:
    """Attention of one new token a row, [B, H · C], which is added to the cache `k_RKSC`, `v_RKSC` of R >= B rows.

    qkv_BX: its queries, keys and values, [B, (H + 2K) · C]; cos_SF, sin_SF: fp32, of each position's angles, F = C / 2;
    lengths_B: how many tokens each row holds, which is the position of the new one.
    """
    B, (_, K, S, C) = len(lengths_B), k_RKSC.shape
    x_BNC = qkv_BX.view(B, -1, C)
    H = x_BNC.shape[1] - 2 * K
    cos, sin = cos_SF[lengths_B][:, None], sin_SF[lengths_B][:, None]
    first, second = x_BNC[:, : H + K].float().chunk(2, dim=-1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(k_RKSC.dtype)
    rows = torch.arange(B, device=qkv_BX.device)
    k_RKSC[rows, :, lengths_B] = turned[:, H:]
    v_RKSC[rows, :, lengths_B] = x_BNC[:, H + K :].to(v_RKSC.dtype)
    used = S if qkv_BX.is_cuda else int(lengths_B.max()) + 1  # asking a GPU would stop it
    unseen_BS = torch.arange(used, device=qkv_BX.device) > lengths_B[:, None]
    q, k, v = turned[:, :H], k_RKSC[:B, :, :used], v_RKSC[:B, :, :used]
    if qkv_BX.is_cuda:
        mask = torch.zeros(unseen_BS.shape, dtype=q.dtype, device=q.device).masked_fill_(unseen_BS, float("-inf"))
        mixed = F.scaled_dot_product_attention(q[:, :, None], k, v, attn_mask=mask[:, None, None], enable_gqa=H != K)
    else:
        scores = torch.bmm(q.reshape(B * K, H // K, C) * C**-0.5, k.flatten(0, 1).transpose(1, 2)).view(B, H, used)
        weights = scores.masked_fill_(unseen_BS[:, None], float("-inf")).softmax(-1)
        mixed = torch.bmm(weights.view(B * K, H // K, used), v.flatten(0, 1))
    return mixed.reshape(B, H * C).to(qkv_BX.dtype)
