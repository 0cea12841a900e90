"""What generate, rs-sample, gatt-build, chat and evaluate share: models, prompts, and the sampling options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from l2.files.errors import BadInput, UsageError
from l2.files.jsonl import STDIO, Record, read_records

if TYPE_CHECKING:
    from l2.generate.engine import Sampler
    from l2.model.transformer import LanguageModel, ScalarModel
    from l2.tokens.tokenizer import Tokenizer

Temperature = Annotated[float, typer.Option("--temperature", min=0.0, help="Sampling temperature; 0 is greedy.")]
TopP = Annotated[float, typer.Option("--top-p", min=0.0, max=1.0, help="Nucleus of this mass; 1 is everything.")]
MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer in tokens (ours).")]
BatchSize = Annotated[
    int,
    typer.Option("--batch-size", min=1, help="Answers at once; changes speed alone, and in bfloat16 rounding (ours)."),
]
Dtype = Annotated[
    str, typer.Option("--dtype", help="auto, float32 or bfloat16. auto: bfloat16 on a GPU, exact float32 on a CPU.")
]
RmDtype = Annotated[
    str, typer.Option("--dtype", help="auto, float32 or bfloat16 for the rewards. auto: exact float32.")
]
Prompts = Annotated[
    list[str] | None,
    typer.Option("--prompts", help="Prompts as JSONL; none or - is stdin.", show_default=False),
]
Rm = Annotated[
    list[str] | None,
    typer.Option("--rm", help="Reward model: DIR, or NAME=DIR (helpful, safe); repeatable.", show_default=False),
]
Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        help="URL or URL#NAME of an OpenAI-compatible server (vLLM, SGLang, llama.cpp) that answers in the place of "
        "--model, of which only the tokenizer and config.json are read.",
        show_default=False,
    ),
]


def open_policy(directory: str, device: str, dtype: str) -> tuple[LanguageModel, Tokenizer]:
    """The language model and the tokenizer of a checkpoint. dtype auto: bfloat16 on a GPU, exact fp32 on a CPU."""
    from l2.model.checkpoint import check_vocabulary, load_language_model
    from l2.model.device import keep_memory, pick_device, pick_dtype, use_all_cores
    from l2.tokens.tokenizer import load_tokenizer

    keep_memory()
    use_all_cores()
    where = pick_device(device)
    kind = pick_dtype("float32" if dtype == "auto" and where.type == "cpu" else dtype, where)
    model, tokenizer = load_language_model(directory, dtype=kind, device=where), load_tokenizer(directory)
    check_vocabulary(model.config, tokenizer, directory)
    return model, tokenizer


def open_sampler(directory: str, endpoint: str | None, device: str, dtype: str) -> tuple[Sampler, Tokenizer, str]:
    """What answers, its tokenizer, and its name for records: `open_policy` or, with `endpoint`, the server there."""
    if endpoint is None:
        return *open_policy(directory, device, dtype), directory
    from l2.generate.endpoint import open_endpoint
    from l2.model.checkpoint import check_vocabulary, load_config
    from l2.model.device import keep_memory, use_all_cores
    from l2.tokens.tokenizer import load_tokenizer

    keep_memory()  # reward models may still run here
    use_all_cores()
    config, scalar = load_config(directory)
    if scalar:
        raise BadInput(directory, "a reward model", "a language model")
    tokenizer = load_tokenizer(directory)
    check_vocabulary(config, tokenizer, directory)
    server = open_endpoint(endpoint, config, tokenizer)
    return server, tokenizer, server.name


def rm_directories(given: Sequence[str] | None) -> dict[str, str]:
    """{name: directory} of --rm options; a bare DIR is called "reward". Raises UsageError for a name given twice."""
    directories: dict[str, str] = {}
    for word in given or ():
        name, _, directory = word.partition("=")
        if not directory or "/" in name:  # a path may hold a "=", too
            name, directory = "reward", word
        if name in directories:
            raise UsageError(f"--rm {name} is given twice; name each, as --rm helpful=DIR --rm safe=DIR")
        directories[name] = directory
    return directories


def open_rewards(
    given: Sequence[str] | None, device: str, tokenizer: Tokenizer, dtype: str = "float32"
) -> dict[str, ScalarModel]:
    """{name: reward model} of --rm options (see `rm_directories`). dtype auto: exact fp32, also on a GPU.

    Raises UsageError for a reward model of another tokenizer than `tokenizer`.
    """
    from l2.model.checkpoint import check_vocabulary, load_reward_model
    from l2.model.device import keep_memory, pick_device, pick_dtype, use_all_cores
    from l2.tokens.tokenizer import load_tokenizer

    keep_memory()
    use_all_cores()
    where = pick_device(device)
    kind = pick_dtype("float32" if dtype == "auto" else dtype, where)
    models: dict[str, ScalarModel] = {}
    for name, directory in rm_directories(given).items():
        models[name] = load_reward_model(directory, dtype=kind, device=where)
        if load_tokenizer(directory).sha256 != tokenizer.sha256:
            raise UsageError(f"--rm {directory} has another tokenizer than the model")
        check_vocabulary(models[name].config, tokenizer, directory)
    return models


def read_prompts(prompts: Sequence[str] | None) -> list[Record]:
    """Prompt records; ids are given to those that lack one, by file and line."""
    records = list(read_records(prompts or (STDIO,), required=["prompt"]))
    for record in records:
        record["id"] = record.identity
    return records


def encode_prompts(records: Sequence[Record], tokenizer: Tokenizer, *, raw: bool = False) -> list[list[int]]:
    """The ids of each record's prompt: as a dialog, which must end with the user, or plain text (see `prompt_ids`)."""
    from l2.generate.samples import prompt_ids

    return [prompt_ids(tokenizer, record, raw=raw) for record in records]
