"""Several processes that train one model: `torchrun --no-python l2 pretrain ...` (design.md §5).

Weights, gradients and optimizer are cut into as many slices as there are ranks (FSDP2, Zhao et al. 2023); between nodes
they are copies (HSDP). A step's items are dealt out like cards, so that a rank is a share of the same global batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn

from l2.files.errors import L2Error
from l2.files.manifest import Run

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

S = TypeVar("S")
T = TypeVar("T")
Model = TypeVar("Model", bound=nn.Module)

# What torchrun sets in the environment of each process, beside RANK.
TORCHRUN = ("WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
GONE = "gloo/transport"  # in what gloo says when a rank leaves; with NCCL the others wait until torchrun ends them


@dataclass(frozen=True)
class Ranks:
    """This process among `world` of them; alone unless torchrun started it."""

    rank: int = 0
    world: int = 1
    mesh: DeviceMesh | None = None
    local: int = 1  # how many of them are on this machine

    @property
    def first(self) -> bool:
        """Whether it is this one that writes."""
        return self.rank == 0

    def total(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the ranks."""
        return self._reduced(values, distributed.ReduceOp.SUM)

    def most(self, values: Sequence[float]) -> list[float]:
        """The greatest of each value over the ranks."""
        return self._reduced(values, distributed.ReduceOp.MAX)

    def _reduced(self, values: Sequence[float], how: distributed.ReduceOp.RedOpType) -> list[float]:
        if self.mesh is None:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.mesh.device_type)
        distributed.all_reduce(tensor, how)
        numbers: list[float] = tensor.tolist()
        return numbers

    def each(self, make: Callable[[], T]) -> list[T]:
        """What `make` gives on every rank, in their order, to all of them; where it fails on one, all fail."""
        if self.mesh is None:
            return [make()]
        told: list[Any] = [None] * self.world
        try:
            made = make()
        except BaseException as error:
            with suppress(RuntimeError):
                distributed.all_gather_object(told, (None, str(error)))
            raise
        distributed.all_gather_object(told, (made, None))
        for rank, (_, failure) in enumerate(told):
            if failure is not None:
                raise L2Error(f"rank {rank}: {failure}")
        return [made for made, _ in told]

    def share(self, items: Sequence[S], work: Callable[[Sequence[S]], Sequence[T]]) -> list[T]:
        """`work` of `items`, a result an item: each rank does every world-th of them, and hears of all results."""
        hands = self.each(lambda: work(items[self.rank :: self.world]))
        return [hands[i % self.world][i // self.world] for i in range(len(items))]

    @contextmanager
    def told(self) -> Iterator[None]:
        """What the first rank alone does; when it fails, the others stop too."""
        failure: list[str | None] = [None]
        try:
            yield
        except BaseException as error:
            failure = [str(error)]
            raise
        finally:
            if self.mesh is not None:
                with suppress(RuntimeError):
                    distributed.broadcast_object_list(failure)
        if failure[0] is not None:
            raise L2Error(f"rank 0: {failure[0]}")


ALONE = Ranks()


@contextmanager
def open_shared(ranks: Ranks, open_first: Callable[[], AbstractContextManager[Run]]) -> Iterator[Run]:
    """The run that the first rank opens; the others learn of its state, or fail with it."""
    if not ranks.first:
        told: list[Run | str] = [""]
        distributed.broadcast_object_list(told)
        if isinstance(told[0], str):
            raise L2Error(f"rank 0: {told[0]}")
        yield told[0]
        return
    with ExitStack() as stack:
        try:
            run = stack.enter_context(open_first())
        except BaseException as error:
            if ranks.mesh is not None:
                distributed.broadcast_object_list([str(error)])
            raise
        if ranks.mesh is not None:
            distributed.broadcast_object_list([run])
        yield run


@contextmanager
def start_ranks(device: torch.device) -> Iterator[Ranks]:
    """The ranks that torchrun started, told by its environment; without it, or as the only one, this process alone."""
    if "RANK" not in os.environ:
        yield ALONE
        return
    if missing := [name for name in TORCHRUN if name not in os.environ]:
        raise L2Error(f"RANK is set in the environment, but not {', '.join(missing)}: start the ranks with torchrun")
    if int(os.environ["WORLD_SIZE"]) == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        world, local = distributed.get_world_size(), int(os.environ["LOCAL_WORLD_SIZE"])
        yield Ranks(distributed.get_rank(), world, mesh_of(device.type, world, local), local)
        distributed.barrier()  # nobody leaves while another still talks
    except RuntimeError as error:
        if GONE not in str(error):
            raise
        raise L2Error("another rank has ended in the middle; what it said last tells why") from None
    finally:
        distributed.destroy_process_group()


def mesh_of(kind: str, world: int, local: int) -> DeviceMesh:
    """[ranks] on one node; [nodes, ranks of a node] on several, where the first dimension holds copies."""
    from torch.distributed.device_mesh import init_device_mesh

    if world == local or local == 1:
        return init_device_mesh(kind, (world,), mesh_dim_names=("shard",))
    return init_device_mesh(kind, (world // local, local), mesh_dim_names=("copy", "shard"))


def share_out(compute: nn.Module, layers: Sequence[nn.Module], mesh: DeviceMesh, dtype: torch.dtype) -> None:
    """Cut the weights into slices: each layer gathers its own when it needs them, in `dtype`; gradients are fp32."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(compute, mesh=mesh, mp_policy=policy)


def slice_like(tensor: Tensor, like: Tensor) -> Tensor:
    """What this rank holds of a whole `tensor` that is cut as `like` is; the tensor itself where that is not cut."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(like, DTensor) and tensor.shape == like.shape:
        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return tensor.to(like.device)


@torch.no_grad()
def put_back(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy whole `tensors` into all weights of `model`, by name, or, where those are cut, each rank its slices."""
    for name, weight in model.named_parameters():
        weight.copy_(slice_like(tensors[name], weight))


def cut_weights(model: Model, mesh: DeviceMesh | None) -> Model:
    """`model`, its weights cut into slices that rest: it computes nothing but while they are `gathered`."""
    if mesh is not None:
        from torch.distributed.tensor import Replicate, Shard, distribute_tensor

        placements = [Replicate()] * (mesh.ndim - 1) + [Shard(0)]
        # a copy, since a slice may be a view that would hold on to the whole
        _exchange(model, lambda weight: distribute_tensor(weight, mesh, placements, src_data_rank=None).clone())
    return model


@contextmanager
def gathered(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Have the weights of a `model` that is cut whole, in `dtype`, on every rank, for as long as the block runs.

    Every rank must enter it; a model that is not cut stays as it is.
    """
    from torch.distributed.tensor import DTensor

    def whole_of(weight: Tensor) -> Tensor:
        return cast(DTensor, weight.to(dtype)).full_tensor() if isinstance(weight, DTensor) else weight

    places = _exchange(model, whole_of)
    try:
        yield
    finally:
        for module, name, weight in places:
            setattr(module, name, weight)


@torch.no_grad()
def _exchange(model: nn.Module, change: Callable[[Tensor], Tensor]) -> list[tuple[nn.Module, str, nn.Parameter]]:
    """Put change(weight) in the place of each weight, tied ones as one; returns where the weights were."""
    places = [(module, name, w) for module in model.modules() for name, w in module.named_parameters(recurse=False)]
    weights = dict.fromkeys(weight for *_, weight in places)
    changed = {weight: nn.Parameter(change(weight), requires_grad=False) for weight in weights}
    for module, name, weight in places:
        setattr(module, name, changed[weight])
    return places
