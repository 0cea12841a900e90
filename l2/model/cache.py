"""The cache of keys and values that generation reads and adds to."""

from __future__ import annotations

import torch
from torch import Tensor

from l2.model.config import ModelConfig


class KVCache:
    """Keys and values of every layer, preallocated: slot s of a row holds the token at position s."""

    def __init__(
        self, config: ModelConfig, batch: int, length: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        shape = (config.n_layers, batch, config.n_kv_heads, length, config.head_dim)
        self.k = torch.zeros(shape, dtype=dtype, device=device)
        self.v = torch.zeros(shape, dtype=dtype, device=device)

    @property
    def length(self) -> int:
        """How many positions fit."""
        return self.k.shape[3]

    def take(self, rows_N: Tensor) -> KVCache:
        """A cache of the given rows, in that order; a row may be taken several times."""
        taken = object.__new__(KVCache)
        taken.k, taken.v = self.k.index_select(1, rows_N), self.v.index_select(1, rows_N)
        return taken

    def put(self, layer: int, k_BKTC: Tensor, v_BKTC: Tensor, slots_BT: Tensor, used: int) -> tuple[Tensor, Tensor]:
        """Store keys and values at `slots_BT`; returns what the first `used` slots hold, [B, K, used, C]."""
        rows = torch.arange(slots_BT.shape[0], device=slots_BT.device)[:, None]
        self.k[layer][rows, :, slots_BT] = k_BKTC.transpose(1, 2).to(self.k.dtype)
        self.v[layer][rows, :, slots_BT] = v_BKTC.transpose(1, 2).to(self.v.dtype)
        return self.k[layer, :, :, :used], self.v[layer, :, :, :used]
