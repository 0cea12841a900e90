"""Checkpoints of other programs: Meta's consolidated.*.pth in and out, llama2.c's .bin out, each with its proof.

Meta turns neighbouring channels of a head (2i, 2i + 1) where Hugging Face turns (i, i + C/2): the rows of the query
and key products stand in another order, and nothing else differs but names. Everything here moves weights without
arithmetic, so a round trip is exact to the bit. A proof computes with the tensors as they stand in the files, in the
order that their own programs expect: a wrong order can't hide behind a reader that undoes it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numpy as np
import orjson
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from l2.files.atomic import atomic_file, write_atomic
from l2.files.errors import BadInput, L2Error, UsageError
from l2.model.checkpoint import load_weights, model_tensors, read_json
from l2.model.config import ModelConfig, size_of
from l2.model.transformer import LanguageModel, Where, attend, frequencies
from l2.tokens.tokenizer import Tokenizer

PARAMS = "params.json"

# Meta's name of each weight, ours, and along which axis a model-parallel group holds parts of it (None: each has all).
# Llama 2 splits the embedding by channels (1); Llama 3 by words (0), which `_joined` tells by the shapes.
_NAMES: tuple[tuple[str, str, int | None], ...] = (
    ("tok_embeddings", "model.embed_tokens", 1),
    ("norm", "model.norm", None),
    ("output", "lm_head", 0),
    ("layers.{}.attention.wq", "model.layers.{}.self_attn.q_proj", 0),
    ("layers.{}.attention.wk", "model.layers.{}.self_attn.k_proj", 0),
    ("layers.{}.attention.wv", "model.layers.{}.self_attn.v_proj", 0),
    ("layers.{}.attention.wo", "model.layers.{}.self_attn.o_proj", 1),
    ("layers.{}.feed_forward.w1", "model.layers.{}.mlp.gate_proj", 0),
    ("layers.{}.feed_forward.w2", "model.layers.{}.mlp.down_proj", 1),
    ("layers.{}.feed_forward.w3", "model.layers.{}.mlp.up_proj", 0),
    ("layers.{}.attention_norm", "model.layers.{}.input_layernorm", None),
    ("layers.{}.ffn_norm", "model.layers.{}.post_attention_layernorm", None),
)


class Weight(NamedTuple):
    """One weight: its name in both layouts, the axis it is split along, and the heads whose channels are reordered."""

    meta: str
    ours: str
    axis: int | None
    heads: int | None


def weights_of(config: ModelConfig) -> Iterator[Weight]:
    """Every weight of a model, layer by layer after the first three."""
    for layer in range(config.n_layers):
        for meta, ours, axis in _NAMES:
            if "{}" not in meta and layer > 0:
                continue
            heads = {"wq": config.n_heads, "wk": config.n_kv_heads}.get(meta.rpartition(".")[2])
            yield Weight(f"{meta.format(layer)}.weight", f"{ours.format(layer)}.weight", axis, heads)


def halves(weight: Tensor, heads: int) -> Tensor:
    """Rows [heads · C, D] in Meta's order, a pair side by side, to ours: all first ones of a head, then all second."""
    return weight.view(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def neighbours(weight: Tensor, heads: int) -> Tensor:
    """The inverse of `halves`."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


class MetaModel(NamedTuple):
    """A model as Meta's and llama2.c's files hold it: weights under Meta's names, a pair of channels side by side."""

    config: ModelConfig
    weights: dict[str, Tensor]

    def ours(self, where: str) -> LanguageModel:
        """The same model in our order of channels. Raises BadInput, about `where`, for weights that do not fit."""
        tensors = {
            ours: halves(self.weights[meta], heads) if heads else self.weights[meta]
            for meta, ours, _, heads in weights_of(self.config)
        }
        return load_weights(LanguageModel, self.config, tensors, where)


def meta_logits(model: MetaModel, tokens_BT: Tensor) -> Tensor:
    """Token ids [B, T] to logits [B, T, V], turning channels (2i, 2i + 1) of each head.

    Meta's reference code (llama/model.py: apply_rotary_emb, Attention, FeedForward), with reals for complex numbers.
    """
    (B, T), config, weights = tokens_BT.shape, model.config, model.weights
    angles_TC = torch.outer(torch.arange(T).float(), frequencies(config))
    cos, sin = angles_TC.cos(), angles_TC.sin()
    mask = torch.ones(T, T, dtype=torch.bool).tril()[None, None]

    def norm(x_BTD: Tensor, name: str) -> Tensor:
        scale = torch.rsqrt(x_BTD.square().mean(-1, keepdim=True) + config.norm_eps)
        return x_BTD * scale * weights[f"{name}.weight"]

    def times(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"])

    def heads(x: Tensor) -> Tensor:
        return x.view(B, T, -1, config.head_dim).transpose(1, 2)

    def turned(x_BHTC: Tensor) -> Tensor:
        first, second = x_BHTC[..., 0::2], x_BHTC[..., 1::2]
        # q·k is the same in any order that both share; in this one it also rounds as ours does
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

    x = weights["tok_embeddings.weight"][tokens_BT]
    for at in (f"layers.{layer}" for layer in range(config.n_layers)):
        h = norm(x, f"{at}.attention_norm")
        q, k, v = (heads(times(h, f"{at}.attention.{name}")) for name in ("wq", "wk", "wv"))
        out = attend(turned(q), turned(k), v, mask)
        x = x + times(out.transpose(1, 2).reshape(B, T, -1), f"{at}.attention.wo")
        h = norm(x, f"{at}.ffn_norm")
        gated = F.silu(times(h, f"{at}.feed_forward.w1")) * times(h, f"{at}.feed_forward.w3")
        x = x + times(gated, f"{at}.feed_forward.w2")
    return times(norm(x, "norm"), "output")


def _joined(parts: list[Tensor], weight: Weight, full: tuple[int, ...], where: str) -> Tensor:
    """The parts of a model-parallel group as one weight of shape `full`, in Meta's order of channels."""
    axis = weight.axis
    if weight.meta.startswith("tok_embeddings") and parts[0].shape[1] == full[1]:
        axis = 0
    try:
        whole = parts[0] if axis is None else torch.cat(parts, dim=axis)
    except (RuntimeError, IndexError) as error:
        raise BadInput(where, f"parts of {weight.meta} that don't fit together ({error})", f"{list(full)}") from None
    if tuple(whole.shape) != full:
        raise BadInput(where, f"{weight.meta} of shape {list(whole.shape)}", f"{list(full)}, as {PARAMS} says")
    return whole


def _open_part(path: Path) -> dict[str, Tensor]:
    try:
        part = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(str(path), f"no file of weights alone ({reason})", "one of Meta's .pth files") from None
    if not isinstance(part, dict) or not all(isinstance(weight, Tensor) for weight in part.values()):
        raise BadInput(str(path), "something else than weights by name", "one of Meta's .pth files")
    return part


def _meta_config(directory: Path, parts: list[dict[str, Tensor]], max_seq_len: int) -> ModelConfig:
    params = read_json(directory / PARAMS)
    where = str(directory / PARAMS)
    if params.get("use_scaled_rope"):
        raise BadInput(where, "use_scaled_rope = true", "plain rotary embeddings")
    for name in ("layers.0.feed_forward.w1.weight", "output.weight", "tok_embeddings.weight"):
        if not all(name in part and part[name].dim() == 2 for part in parts):
            raise BadInput(str(directory), f"no matrix {name!r} in a part", "the weights of a Llama")
    embedding = parts[0]["tok_embeddings.weight"]
    words = sum(part["tok_embeddings.weight"].shape[0] for part in parts)
    dim, heads = size_of(params, "dim", where), size_of(params, "n_heads", where)
    try:
        return ModelConfig(
            vocab_size=embedding.shape[0] if embedding.shape[1] < dim else words,
            dim=dim,
            n_layers=size_of(params, "n_layers", where),
            n_heads=heads,
            n_kv_heads=size_of(params, "n_kv_heads", where, heads),
            head_dim=dim // heads,
            ffn_dim=sum(part["layers.0.feed_forward.w1.weight"].shape[0] for part in parts),
            max_seq_len=max_seq_len,
            norm_eps=float(params.get("norm_eps", 1e-5)),
            rope_theta=float(params.get("rope_theta", 10000.0)),
        )
    except (TypeError, ValueError) as error:
        raise BadInput(where, str(error), "the params.json of a Llama") from None


def open_meta(directory: str | Path, *, max_seq_len: int = 4096) -> MetaModel:
    """What a directory with params.json and consolidated.*.pth holds, split among any number of parts.

    Only tensors are ever read from the .pth files (weights_only). They do not tell the context: `max_seq_len`. Nor do
    they tell tied embeddings, as the head is always written: one that equals the embedding is taken for tied.
    Raises L2Error for a missing file and BadInput for one that is no Llama of Meta's.
    """
    directory = Path(directory)
    paths = sorted(directory.glob("consolidated.*.pth"))
    if not paths:
        raise L2Error(f"{directory}: no consolidated.*.pth; the directory of one of Meta's models is needed")
    parts = [_open_part(path) for path in paths]
    config = _meta_config(directory, parts, max_seq_len)
    with torch.device("meta"):
        shapes = {name: tuple(weight.shape) for name, weight in LanguageModel(config).state_dict().items()}
    weights = {}
    for weight in weights_of(config):
        if missing := [path for path, part in zip(paths, parts, strict=True) if weight.meta not in part]:
            raise BadInput(str(missing[0]), f"no weight {weight.meta!r}", "every weight of the model")
        there = [part[weight.meta] for part in parts]
        weights[weight.meta] = _joined(there, weight, shapes[weight.ours], str(directory))
    tied = torch.equal(weights["tok_embeddings.weight"], weights["output.weight"])
    return MetaModel(replace(config, tie_embeddings=tied), weights)


def read_meta(directory: str | Path, *, max_seq_len: int = 4096) -> LanguageModel:
    """`open_meta` in our order of channels."""
    return open_meta(directory, max_seq_len=max_seq_len).ours(str(directory))


def _refuse(config: ModelConfig, to: str, **needed: Any) -> None:
    """Raises UsageError for a field that the other layout has no room for, and for a model without layers."""
    if not config.n_layers:
        raise UsageError(f"--to {to}: the model has no layers; that layout needs one at least")
    for field, value in (needed | {"head_dim": config.dim // config.n_heads, "rope_scaling": None}).items():
        if getattr(config, field) != value:
            found = getattr(config, field)
            raise UsageError(f"--to {to}: the model has {field} {found}; that layout can only hold {value}")


def _as_meta(model: LanguageModel) -> dict[str, tuple[Tensor, int | None]]:
    """Each weight by Meta's name, in Meta's order of channels, with its axis; tied embeddings under both names."""
    tensors = model_tensors(model)
    tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
    return {
        weight.meta: (
            neighbours(tensors[weight.ours], weight.heads) if weight.heads else tensors[weight.ours],
            weight.axis,
        )
        for weight in weights_of(model.config)
    }


def write_meta(model: LanguageModel, directory: str | Path, tokenizer: Tokenizer, *, parts: int = 1) -> None:
    """params.json, tokenizer.model, and the weights split among `parts` files as Meta's model-parallel groups are.

    The .pth files are what that layout asks for; they hold tensors alone. Raises UsageError for a model that the
    layout can't hold, or that can't be split so.
    """
    config, directory = model.config, Path(directory)
    _refuse(config, "meta")
    if (
        parts < 1
        or config.n_kv_heads % parts
        or config.ffn_dim % parts
        or config.dim % parts
        or config.vocab_size % parts
    ):
        raise UsageError(f"--parts {parts}: does not divide the key/value heads ({config.n_kv_heads}), the vocabulary "
                         f"({config.vocab_size}), dim ({config.dim}) and ffn_dim ({config.ffn_dim})")  # fmt: skip
    weights = _as_meta(model)
    for number in range(parts):
        part = {
            name: weight if axis is None else weight.chunk(parts, dim=axis)[number].clone()
            for name, (weight, axis) in weights.items()
        }
        with atomic_file(directory / f"consolidated.{number:02d}.pth") as file:
            torch.save(part, file)
    params: dict[str, Any] = {"dim": config.dim, "n_layers": config.n_layers, "n_heads": config.n_heads}
    params |= {"n_kv_heads": config.n_kv_heads, "vocab_size": config.vocab_size, "norm_eps": config.norm_eps}
    params |= {"rope_theta": config.rope_theta} | _ffn_rule(config)
    write_atomic(directory / "tokenizer.model", tokenizer.model_bytes)
    write_atomic(directory / PARAMS, orjson.dumps(params, option=orjson.OPT_INDENT_2))


def _ffn_rule(config: ModelConfig) -> dict[str, Any]:
    """multiple_of and ffn_dim_multiplier from which Meta's code computes exactly `ffn_dim`."""
    two_thirds = int(8 * config.dim / 3)
    return {"multiple_of": 1, "ffn_dim_multiplier": (config.ffn_dim + 0.5) / two_thirds}


_MAGIC, _HEADER = 0x616B3432, 256  # "ak42"; bytes


def _llama2c_order(layers: int, tied: bool, version: int) -> list[str]:
    """Names, as Meta has them, in the order in which llama2.c's files hold the weights: each kind for all layers.

    Version 0 has the embedding in front, the angles of all positions behind the norm, and a norm in another place.
    """
    attention, forward = ("wq", "wk", "wv", "wo"), ("w1", "w2", "w3")
    products = [[f"attention.{name}" for name in attention], [f"feed_forward.{name}" for name in forward]]
    if version == 0:
        kinds = ["attention_norm", *products[0], "ffn_norm", *products[1]]
    else:
        kinds = ["attention_norm", "ffn_norm", "", *products[0], *products[1]]
    order = ["tok_embeddings.weight"] if version == 0 else []
    for kind in kinds:
        inner = [f"layers.{layer}.{kind}.weight" for layer in range(layers)]
        order += inner if kind else ["norm.weight", "tok_embeddings.weight"]
    order += ["norm.weight", "cos", "sin"] if version == 0 else []
    return order if tied else [*order, "output.weight"]


def write_llama2c(model: LanguageModel, path: str | Path, *, version: int = 1) -> None:
    """llama2.c's fp32 file: version 1 with its header, or 0, which is what its run.c reads.

    Raises UsageError for a model that its C code would compute otherwise.
    """
    config = model.config
    _refuse(config, "llama2.c", norm_eps=1e-5, rope_theta=10000.0)
    shape = [config.dim, config.ffn_dim, config.n_layers, config.n_heads, config.n_kv_heads, config.vocab_size]
    shape.append(config.max_seq_len)
    if version == 0:
        shape[5] *= 1 if config.tie_embeddings else -1  # the sign tells whether the head is the embedding
        header = struct.pack("<7i", *shape)
    else:
        header = struct.pack("<Ii7iB", _MAGIC, version, *shape, config.tie_embeddings).ljust(_HEADER, b"\0")
    weights = {name: weight for name, (weight, _) in _as_meta(model).items()}
    angles = torch.outer(torch.arange(config.max_seq_len).float(), frequencies(config))
    weights |= {"cos": angles.cos(), "sin": angles.sin()}
    with atomic_file(path) as file:
        file.write(header)
        for name in _llama2c_order(config.n_layers, config.tie_embeddings, version):
            file.write(weights[name].float().numpy().astype("<f4", copy=False).tobytes())


def open_llama2c(path: str | Path) -> MetaModel:
    """What a file holds of version 0 or 1. Raises BadInput for another file, or one that is cut short."""
    raw = np.fromfile(path, np.uint8).data
    if len(raw) < 28:
        raise BadInput(str(path), f"{len(raw)} bytes", "the header of a llama2.c file")
    if version := int(struct.unpack_from("<I", raw)[0] == _MAGIC):
        start = _HEADER
        found, *shape, tied = struct.unpack_from("<i7iB", raw, 4)
        if found != 1:
            raise BadInput(str(path), f"version {found}", "version 0 or 1, those in fp32")
    else:
        start, shape = 28, list(struct.unpack_from("<7i", raw))
        tied, shape[5] = shape[5] > 0, abs(shape[5])
    dim, ffn, layers, heads, kv_heads, vocab, context = shape
    if min(shape) < 1 or dim % (2 * heads) or heads % kv_heads:
        raise BadInput(str(path), f"a shape of {shape}", "the header of a llama2.c file")
    config = ModelConfig(vocab, dim, layers, heads, kv_heads, dim // heads, ffn, context, tie_embeddings=bool(tied))
    with torch.device("meta"):
        shapes = {name: tuple(weight.shape) for name, weight in LanguageModel(config).state_dict().items()}
    weights = {weight.meta: weight for weight in weights_of(config)}
    order = _llama2c_order(layers, bool(tied), version)
    angles = (context, config.head_dim // 2)
    sizes = [shapes[weights[name].ours] if name in weights else angles for name in order]
    expected = start + 4 * sum(math.prod(size) for size in sizes)
    if len(raw) != expected:
        raise BadInput(str(path), f"{len(raw):,} bytes", f"{expected:,}, as its header says")
    tensors, at = {}, start
    for name, size in zip(order, sizes, strict=True):
        tensors[name] = torch.from_numpy(np.frombuffer(raw, "<f4", math.prod(size), at).reshape(size))
        at += tensors[name].nbytes
    tensors.setdefault("output.weight", tensors["tok_embeddings.weight"])
    return MetaModel(config, {name: tensors[name] for name in weights})


def read_llama2c(path: str | Path) -> LanguageModel:
    """`open_llama2c` in our order of channels."""
    return open_llama2c(path).ours(str(path))


def write_llama2c_tokenizer(tokenizer: Tokenizer, path: str | Path) -> None:
    """llama2.c's tokenizer.bin: the longest piece in bytes, then score, length and bytes of each piece."""
    pieces = []
    for number, (piece, score) in enumerate(tokenizer.pieces()):
        text = {tokenizer.bos_id: "\n<s>\n", tokenizer.eos_id: "\n</s>\n"}.get(number, piece.replace("\u2581", " "))
        pieces.append((score, text.encode()))
    body = b"".join(struct.pack("<fi", score, len(text)) + text for score, text in pieces)
    write_atomic(path, struct.pack("<i", max(len(text) for _, text in pieces)) + body)


class Proof(NamedTuple):
    """How far two models are apart on one text: logits, nats a token, and the share of equal likeliest tokens."""

    max_logit_difference: float
    kl: float
    greedy_agreement: float
    tokens: int


class _InFp32(dict[str, Tensor]):
    """Weights that are cast as each is asked for."""

    def __getitem__(self, name: str) -> Tensor:
        return super().__getitem__(name).float()


def _in_fp32(model: LanguageModel | MetaModel) -> Callable[[Tensor], Tensor]:
    """Token ids [B, T] to logits [B, T, V] computed in fp32, into which one layer at a time is cast."""
    if isinstance(model, MetaModel):
        return partial(meta_logits, model._replace(weights=_InFp32(model.weights)))

    def call(part: nn.Module, *given: Any) -> Tensor:
        out: Tensor = functional_call(part, {name: weight.float() for name, weight in part.named_parameters()}, given)
        return out

    def logits(tokens_BT: Tensor) -> Tensor:
        where = Where(model.config, torch.arange(tokens_BT.shape[1]).expand_as(tokens_BT), None, None)
        x_BTD = model.model.embed_tokens(tokens_BT).float()
        for layer in model.model.layers:
            x_BTD = call(layer, x_BTD, where)
        return call(model.lm_head, call(model.model.norm, x_BTD))

    return logits


@torch.inference_mode()
def prove(one: LanguageModel | MetaModel, other: LanguageModel | MetaModel, *, length: int = 64) -> Proof:
    """Compare two models in fp32 on tokens spread over the vocabulary, then on what the first goes on to say.

    Each computes with its weights as they stand, in its own order of channels.
    """
    length = min(length, one.config.max_seq_len)
    spread = [1, *(3 + (7919 * at) % max(1, one.config.vocab_size - 3) for at in range(1, length // 2))]
    tokens = torch.tensor([spread])
    first, second = _in_fp32(one), _in_fp32(other)
    while tokens.shape[1] < length:
        tokens = torch.cat((tokens, first(tokens)[:, -1:].argmax(-1)), dim=1)
    ours, theirs = first(tokens), second(tokens)
    log_ours, log_theirs = ours.log_softmax(-1), theirs.log_softmax(-1)
    kl = (log_ours.exp() * (log_ours - log_theirs)).sum(-1).mean()
    same = (ours.argmax(-1) == theirs.argmax(-1)).float().mean()
    return Proof(float((ours - theirs).abs().max()), float(kl), float(same), length)
