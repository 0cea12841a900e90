"""A step of many ranks without any of them: a process group that only pretends, and tensors without numbers.

What FSDP would hold on one rank is then measured, not counted (`WORLD_SIZE=512 l2 pretrain --dry-run`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed

from l2.files.progress import OnProgress, ignore
from l2.model.config import ModelConfig
from l2.model.transformer import LanguageModel
from l2.train.compute import Compute, Sums
from l2.train.optim import adamw
from l2.train.pretrain import token_losses
from l2.train.ranks import mesh_of

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class _EveryToken:
    """Pretraining's loss where every token is learned: which ones are, tensors without numbers can't say."""

    def sums(self, model: Any, tensors: Mapping[str, Tensor]) -> Sums:
        """See `Objective`."""
        hidden = model.hidden(tensors["tokens_BT"]).flatten(0, 1)
        return {"loss": token_losses(model, hidden, tensors["targets_BT"].flatten()).sum()}


@contextmanager
def _pretended(ranks: int) -> Iterator[DeviceMesh]:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        yield mesh_of("cpu", ranks, ranks)
    finally:
        distributed.destroy_process_group()


def rehearse(
    config: ModelConfig,
    dtype: torch.dtype,
    rows: int,
    ranks: int,
    recompute: str = "none",
    on_progress: OnProgress = ignore,
) -> dict[str, int]:
    """Bytes on each of `ranks`, by kind and in "Total", when a step on `rows` rows after the first holds most of them.

    on_progress: of the layers, each forwards and backwards.
    With torch's own kernels for a CPU: fused.cpp, and flash attention on a GPU, keep less.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker

    with _pretended(ranks) as mesh:
        with torch.device("meta"):
            model = LanguageModel(config)
        # cut while on the meta device: a fake tensor is made of every slice of every weight, nine tenths of the time
        compute = Compute(model, _EveryToken(), dtype, recompute, mesh=mesh, fusing=False)
        with FakeTensorMode(allow_non_fake_inputs=True):
            compute.to_empty(device="cpu")
            optimizer = _with_state(model)
            tokens = torch.zeros(rows, config.max_seq_len, dtype=torch.long)
            tracker = FSDPMemTracker(compute, optimizer)
            _tell_layers(model, on_progress)
            with tracker:
                tracker.reset_mod_stats()
                compute({"tokens_BT": tokens, "targets_BT": tokens})["loss"].backward()
            (held,) = (kinds for device, kinds in tracker.get_tracker_snapshot("peak").items() if device.type == "cpu")
        return {str(getattr(kind, "value", kind)): int(size) for kind, size in held.items()}


def _with_state(model: LanguageModel) -> torch.optim.AdamW:
    """The optimizer after its first step, from which on it has its state."""
    optimizer = adamw(model)
    for group in optimizer.param_groups:
        group["fused"] = False  # which would look at numbers
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def _tell_layers(model: LanguageModel, on_progress: OnProgress) -> None:
    """Let each layer tell when it has been passed, on the way forwards and on the way back."""
    done, total = count(1), 2 * len(model.model.layers)

    def passed(*_: Any) -> None:
        on_progress(next(done), total, "")

    def forwards(layer: Any, given: Any, out_BTD: Tensor) -> None:
        passed()
        out_BTD.register_hook(passed)

    for layer in model.model.layers:
        layer.register_forward_hook(forwards)
