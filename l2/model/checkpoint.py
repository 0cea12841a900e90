"""Hugging Face checkpoint directories in and out (design.md §2). Safetensors only; no pickle is read or written."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import orjson
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from l2.files.atomic import atomic_file, write_atomic
from l2.files.errors import BadInput, L2Error
from l2.files.manifest import read_manifest, sha256_file
from l2.model.config import ModelConfig, config_from_hf
from l2.model.transformer import LanguageModel, ScalarModel
from l2.tokens.tokenizer import Tokenizer, save_tokenizer

AnyModel = LanguageModel | ScalarModel
M = TypeVar("M", LanguageModel, ScalarModel)
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9  # as Hugging Face cut them
SCALAR_ARCHITECTURE = "LlamaForSequenceClassification"


def new_weights(model: LanguageModel, seed: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Untrained weights by name: normal(0, 0.02), products that write to the residual 1/√(2·layers) of that; norms 1.

    The paper is silent on initialisation; this is GPT-2's. One at a time, so that no more than that need fit anywhere.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.dim() < 2:
            yield name, torch.ones(weight.shape)
            continue
        residual = name.endswith(("o_proj.weight", "down_proj.weight"))
        std = 0.02 / math.sqrt(2 * model.config.n_layers) if residual else 0.02
        yield name, torch.empty(weight.shape).normal_(0.0, std, generator=generator)


def new_model(config: ModelConfig, seed: int = 0) -> LanguageModel:
    """An untrained language model, see `new_weights`."""
    model = LanguageModel(config)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in new_weights(model, seed):
            weights[name].copy_(value)
    return model


def scalar_from(model: AnyModel, *, zero_head: bool = False, seed: int = 0) -> ScalarModel:
    """A scalar model on a copy of `model`'s trunk.

    The head of a reward model is kept unless `zero_head` (a value model, rlhf.md §1.8); on a language
    model's trunk it starts at normal(0, 1/√D) (ours: the paper is silent), or at zero when asked.
    """
    scalar = ScalarModel(model.config)
    scalar.model.load_state_dict(model.model.state_dict())
    with torch.no_grad():
        if zero_head:
            scalar.score.weight.zero_()
        elif isinstance(model, ScalarModel):
            scalar.score.weight.copy_(model.score.weight)
        else:
            generator = torch.Generator().manual_seed(seed)
            scalar.score.weight.normal_(0.0, model.config.dim**-0.5, generator=generator)
    return scalar.to(model.device)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint directory. Raises L2Error where there is none, BadInput for anything else."""
    if not path.exists():
        folder = path.parent
        if not folder.is_dir():
            found = "a file" if folder.exists() else "no such directory"
            raise L2Error(f"{folder}: {found}; a checkpoint is a directory on this machine, nothing is downloaded")
        raise L2Error(f"{path}: no such file; every checkpoint directory has one")
    try:
        fields = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise BadInput(str(path), f"no valid JSON ({error})", "a JSON object") from None
    if not isinstance(fields, dict):
        raise BadInput(str(path), f"a JSON {type(fields).__name__}", "a JSON object")
    return fields


def load_config(directory: str | Path) -> tuple[ModelConfig, bool]:
    """The shape of the checkpoint in `directory`, and whether it is a scalar (reward or value) model."""
    path = Path(directory) / "config.json"
    fields = read_json(path)
    architectures = fields.get("architectures") or ["LlamaForCausalLM"]
    if not isinstance(architectures, list) or architectures[0] not in ("LlamaForCausalLM", SCALAR_ARCHITECTURE):
        raise BadInput(str(path), f"architectures = {architectures}", f"LlamaForCausalLM or {SCALAR_ARCHITECTURE}")
    return config_from_hf(fields, str(path)), architectures[0] == SCALAR_ARCHITECTURE


def check_vocabulary(config: ModelConfig, tokenizer: Tokenizer, where: str) -> None:
    """Raises BadInput, about `where`, for a tokenizer with more pieces than the model has embeddings."""
    if tokenizer.vocab_size > config.vocab_size:
        found = f"a tokenizer of {tokenizer.vocab_size:,} pieces"
        raise BadInput(where, found, f"at most {config.vocab_size:,}, the vocab_size of config.json")


def weight_files(directory: str | Path) -> list[Path]:
    """The safetensors files of a checkpoint, one or as many as its index names.

    Raises L2Error when one is missing, and BadInput for an index that names none.
    """
    directory = Path(directory)
    names = [WEIGHTS]
    if (index := directory / INDEX).exists():
        files = read_json(index).get("weight_map")
        if not isinstance(files, dict) or not files or not all(isinstance(name, str) for name in files.values()):
            raise BadInput(str(index), "no such field 'weight_map'", "weight_map, the file of each weight by its name")
        names = sorted(set(files.values()))
    for name in names:
        if not (directory / name).exists():
            raise L2Error(f"{directory / name}: no such file; the checkpoint is not whole")
    return [directory / name for name in names]


def model_sha256(directory: str | Path) -> str:
    """One hash for the weights in `directory`: which model a result came from."""
    return "+".join(sha256_file(path) for path in weight_files(directory))


def base_of(directory: str | Path) -> str:
    """The model that the runs behind `directory` began with, by their manifests: each run's parent `model` in turn.

    A checkpoint without a manifest, or without a parent, is its own base. Raises L2Error for a parent that is gone,
    and BadInput for one with other weights than those it was made from.
    """
    name = str(directory)
    while parents := (read_manifest(name) or {"inputs": {}})["inputs"].get("model"):
        ((parent, sha256),) = parents
        if not Path(parent).is_dir():
            raise L2Error(f"{parent}: no such directory, though {name} was made from it")
        if (found := model_sha256(parent)) != sha256:
            raise BadInput(parent, f"weights {found[:8]}", f"{sha256[:8]}, from which {name} was made")
        name = parent
    return name


def read_tensors(
    path: str | Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """All tensors of a safetensors file, memory-mapped and cast one by one. Raises BadInput for a broken file."""

    def mapped() -> Any:
        return safe_open(str(path), framework="pt", device=str(device))

    try:
        with mapped() as f:
            names = list(f.keys())
        tensors = {}
        for name in names:  # mapped anew for each, so that what was cast is not held any longer
            with mapped() as f:
                tensors[name] = f.get_tensor(name).to(dtype=dtype)
        return tensors
    except SafetensorError as error:
        raise BadInput(str(path), f"a broken safetensors file ({error})", "a whole one") from None


def write_tensors(tensors: dict[str, Tensor], path: str | Path) -> None:
    """Write a safetensors file. Raises OSError, as for any other file, where the system refuses."""
    try:
        save_file(tensors, path, {"format": "pt"})
    except SafetensorError as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from None


def read_weights(
    directory: str | Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """`read_tensors` of all the weight files of a checkpoint (see `weight_files`)."""
    tensors: dict[str, Tensor] = {}
    for path in weight_files(directory):
        tensors |= read_tensors(path, dtype, device)
    return tensors


def load_model(
    directory: str | Path, *, dtype: torch.dtype | None = torch.float32, device: torch.device | str = "cpu"
) -> AnyModel:
    """Load a checkpoint directory: a LanguageModel, or a ScalarModel where config.json says so.

    Weights are mapped from the files and cast one by one; dtype None leaves them as they are stored. Raises L2Error
    for a missing file and BadInput for a config or weights that do not fit this core.
    """
    config, scalar = load_config(directory)
    tensors = read_weights(directory, dtype, device)
    if scalar:
        return load_weights(ScalarModel, config, tensors, str(directory))
    return load_weights(LanguageModel, config, tensors, str(directory))


def load_weights(kind: type[M], config: ModelConfig, tensors: dict[str, Tensor], where: str) -> M:
    """A model of `kind` that holds `tensors` themselves, by the names of the Hugging Face layout.

    Raises BadInput, about `where`, for a weight too few, too many or of another shape.
    """
    with torch.device("meta"):
        model = kind(config)
    tied = config.tie_embeddings and kind is LanguageModel
    if tied and "model.embed_tokens.weight" in tensors:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    _check_shapes(model, tensors, where)
    model.load_state_dict(tensors, assign=True)
    if isinstance(model, LanguageModel) and tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model.eval()


def _check_shapes(model: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    wanted = model.state_dict()
    tensors_there = {name for name in tensors if not name.endswith("rotary_emb.inv_freq")}
    for name in tensors.keys() - tensors_there:
        del tensors[name]
    if missing := sorted(wanted.keys() - tensors_there):
        raise BadInput(where, f"no weight {missing[0]!r} ({len(missing)} missing)", "every weight of the model")
    if extra := sorted(tensors_there - wanted.keys()):
        raise BadInput(where, f"an unknown weight {extra[0]!r} ({len(extra)} in all)", "the weights of a Llama")
    for name, weight in wanted.items():
        if tensors[name].shape != weight.shape:
            found, expected = list(tensors[name].shape), list(weight.shape)
            raise BadInput(where, f"{name} of shape {found}", f"{expected}, as config.json says")


def load_language_model(
    directory: str | Path, *, dtype: torch.dtype | None = torch.float32, device: torch.device | str = "cpu"
) -> LanguageModel:
    """`load_model` for a policy. Raises BadInput for a reward model."""
    model = load_model(directory, dtype=dtype, device=device)
    if not isinstance(model, LanguageModel):
        raise BadInput(str(directory), "a reward model", "a language model")
    return model


def load_reward_model(
    directory: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> ScalarModel:
    """`load_model` for a reward model. Raises BadInput for a language model."""
    model = load_model(directory, dtype=dtype, device=device)
    if not isinstance(model, ScalarModel):
        raise BadInput(str(directory), "a language model", f"a reward model ({SCALAR_ARCHITECTURE})")
    return model


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What is stored of a model: its state dict on the CPU, without the second name of tied embeddings.

    Weights cut into slices are gathered from all ranks, each of which must call this.
    """
    tensors = {name: whole(weight) for name, weight in model.state_dict().items()}
    if isinstance(model, LanguageModel) and model.config.tie_embeddings:
        del tensors["lm_head.weight"]
    return tensors


def whole(tensor: Tensor) -> Tensor:
    """A tensor on the CPU, gathered from all ranks where it is cut into slices: every rank must call it."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full.detach().cpu().contiguous()


def shards_of(tensors: dict[str, Tensor], most: int) -> dict[str, dict[str, Tensor]]:
    """{file name: its tensors} in their order, of at most `most` bytes each but for a tensor that is larger alone."""
    parts: list[dict[str, Tensor]] = [{}]
    room = most
    for name, tensor in tensors.items():
        if tensor.nbytes > room and parts[-1]:
            parts.append({})
            room = most
        parts[-1][name] = tensor
        room -= tensor.nbytes
    if len(parts) == 1:
        return {WEIGHTS: parts[0]}
    return {f"model-{i:05}-of-{len(parts):05}.safetensors": part for i, part in enumerate(parts, 1)}


def save_model(
    model: AnyModel,
    directory: str | Path,
    tokenizer: Tokenizer,
    weights: dict[str, Tensor] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a checkpoint that transformers, vLLM and llama.cpp's converter load. Each file appears whole.

    weights: `model_tensors(model)`, where they are known already. What takes more than `shard_bytes` is cut into
    several files, which an index names once all of them are there.
    """
    directory = Path(directory)
    scalar = isinstance(model, ScalarModel)
    config = model.config.to_hf(scalar=scalar) | {"dtype": str(model.dtype).removeprefix("torch.")}
    generation: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    generation |= {"do_sample": True, "temperature": 0.6, "top_p": 0.9}  # Meta's defaults (paper.md §11)
    save_tokenizer(tokenizer, directory)
    if not scalar:
        write_atomic(directory / "generation_config.json", orjson.dumps(generation, option=orjson.OPT_INDENT_2))
    shards = shards_of(model_tensors(model) if weights is None else weights, shard_bytes)
    for name, tensors in shards.items():
        with atomic_file(directory / name) as file:
            write_tensors(tensors, file.name)
    if len(shards) > 1:
        size = sum(tensor.nbytes for tensors in shards.values() for tensor in tensors.values())
        files = {weight: name for name, tensors in shards.items() for weight in tensors}
        index = {"metadata": {"total_size": size}, "weight_map": files}
        write_atomic(directory / INDEX, orjson.dumps(index, option=orjson.OPT_INDENT_2))
    (directory / (WEIGHTS if len(shards) > 1 else INDEX)).unlink(missing_ok=True)  # of another model saved here before
    write_atomic(directory / "config.json", orjson.dumps(config, option=orjson.OPT_INDENT_2))
