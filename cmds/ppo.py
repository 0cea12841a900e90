"""l2 ppo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmds.console import Console, rank_and_world
from cmds.options import Device, Model, Out, Overwrite, Quiet, Seed
from cmds.sampling import Dtype, Prompts
from l2.files.errors import BadInput, UsageError

if TYPE_CHECKING:
    import torch

    from l2.align.ppo import Settings
    from l2.tokens.tokenizer import Tokenizer


def _selftest(asked: bool) -> None:
    """What --selftest does: nothing else is read, and the exit status is the verdict."""
    if not asked:
        return
    from l2.align.selftest import certify

    findings = certify()
    for finding in findings:
        print(f"{'holds' if finding.holds else 'FAILS'}  {finding.what}: {finding.found}")
    raise typer.Exit(0 if all(finding.holds for finding in findings) else 1)


def ppo(
    model: Model,
    out: Out,
    helpful_rm: Annotated[str, typer.Option("--helpful-rm", help="Reward model of helpfulness.")],
    safety_rm: Annotated[
        str | None, typer.Option("--safety-rm", help="Reward model of safety; without it the gate is off.")
    ] = None,
    reference: Annotated[str | None, typer.Option("--reference", help="π_0 of the KL; default: --model.")] = None,
    prompts: Prompts = None,
    eval_prompts: Annotated[
        list[str] | None, typer.Option("--eval-prompts", help="Held-out prompts, for the val_ fields of the log.")
    ] = None,
    preset: Annotated[
        str,
        typer.Option("--preset", help="Defaults of all that follows: paper (§3.2.3); tiny, for small models (ours)."),
    ] = "paper",
    iterations: Annotated[
        int | None, typer.Option("--iterations", min=1, help="At most (paper: 200 to 400, preset 400; tiny 100).")
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Answers an iteration (paper: 512; tiny 64).")
    ] = None,
    mini_batch: Annotated[
        int | None, typer.Option("--mini-batch", min=1, help="Answers an optimizer step (paper: 64; tiny 16).")
    ] = None,
    micro_batch: Annotated[
        int | None, typer.Option("--micro-batch", min=1, help="Answers at once; memory only (ours: 16).")
    ] = None,
    lr: Annotated[
        float | None, typer.Option("--lr", min=0.0, help="Learning rate, constant (paper: 1e-6; tiny 3e-4).")
    ] = None,
    value_lr: Annotated[
        float | None, typer.Option("--value-lr", min=0.0, help="Of the value model; default: as --lr (ours).")
    ] = None,
    beta: Annotated[
        float | None, typer.Option("--beta", min=0.0, help="Weight of the KL (paper: 0.01; 0.005 for 34b, 70b).")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="Of an answer, with EOS (ours: 256; tiny 64).")
    ] = None,
    whiten: Annotated[
        str, typer.Option("--whiten", help="Scores by: batch (paper Eq. 4), running, frozen or off.")
    ] = "batch",
    no_eos_penalty: Annotated[
        float | None,
        typer.Option("--no-eos-penalty", min=0.0, help="Off a cut answer's whitened score (ours: 0; tiny 1)."),
    ] = None,
    eval_every: Annotated[int, typer.Option("--eval-every", min=1, help="Iterations between evaluations (ours).")] = 10,
    stop_patience: Annotated[
        int,
        typer.Option("--stop-patience", min=0, help="Stop after so many evaluations without gain (ours; 0: never)."),
    ] = 0,
    max_kl: Annotated[
        float, typer.Option("--max-kl", min=0.0, help="Stop past this KL, nats an answer (ours; 0: never).")
    ] = 0.0,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    offload: Annotated[
        bool, typer.Option("--offload", help="Keep what a phase does not need in host memory, off a lone GPU.")
    ] = False,
    selftest: Annotated[
        bool,
        typer.Option(
            "--selftest",
            is_eager=True,
            callback=_selftest,
            help="Alone: reach a known optimum in seconds, print the certificate, and end.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Tune a policy by PPO: reward models gated by safety, whitened, less the KL to a reference (paper §3.2.3).

    The value model starts on the trunk of --helpful-rm and is kept in OUT/value; answers to --eval-prompts come to
    OUT/samples.jsonl. Prints --out when done. The same command again goes on where it was, or says that all is done;
    so it does under torchrun, where processes share the answers and each keeps a slice of every model.

    Example: l2 ppo --model v1 --helpful-rm rm-h --safety-rm rm-s --prompts prompts.jsonl --preset tiny --out v2
    """
    from l2.model.device import pick_device, pick_dtype

    console = Console("ppo", quiet)
    where = pick_device(device)
    settings = _settings(
        preset,
        iterations=iterations,
        batch=batch,
        mini_batch=mini_batch,
        micro_batch=micro_batch,
        lr=lr,
        value_lr=lr if value_lr is None else value_lr,
        beta=beta,
        max_new_tokens=max_new_tokens,
        whitening=whiten,
        no_eos_penalty=no_eos_penalty,
        eval_every=eval_every,
        stop_patience=stop_patience,
        max_kl=max_kl,
        seed=seed,
        # exact fp32 on a CPU, where bfloat16 gains little here
        dtype=pick_dtype("float32" if dtype == "auto" and where.type == "cpu" else dtype, where),
    )
    if stop_patience and not eval_prompts:
        raise UsageError("--stop-patience needs --eval-prompts: held-out prompts decide when to stop")
    if safety_rm is None:
        console.say("no --safety-rm: the safety gate is off, and the reward is helpfulness alone")
    directories = {"model": model, "reference": reference or model, "helpful_rm": helpful_rm, "safety_rm": safety_rm}
    if offload and where.type == "cpu":
        raise UsageError("--offload frees a GPU's memory; on a CPU there is none to free")
    settings.check_ranks(world := rank_and_world()[1])
    if offload and world > 1:
        raise UsageError("--offload is for one GPU alone; of several, each holds a slice of every model")
    _run(console, out, directories, prompts, eval_prompts, settings, where, offload, overwrite)


def _settings(preset: str, **given: Any) -> Settings:
    """The preset's settings with every given option in its place."""
    from dataclasses import replace

    from l2.align.ppo import PRESETS

    if preset not in PRESETS:
        raise UsageError(f"--preset {preset}: choose one of {', '.join(PRESETS)}")
    return replace(PRESETS[preset], **{name: value for name, value in given.items() if value is not None})


def _check_models(models: dict[str, str | None]) -> tuple[Tokenizer, int]:
    """The tokenizer that all models share, and the shortest context of any.

    Raises BadInput for one of the wrong kind or of another tokenizer, before the run leaves anything on disk.
    """
    from l2.model.checkpoint import check_vocabulary, load_config
    from l2.tokens.tokenizer import load_tokenizer

    tokenizers, contexts = {}, []
    for name, directory in models.items():
        if directory is None:
            continue
        config, scalar = load_config(directory)
        kinds = ("a language model", "a reward model")
        if scalar != name.endswith("_rm"):
            raise BadInput(directory, kinds[scalar], kinds[not scalar])
        tokenizers[directory] = load_tokenizer(directory)
        check_vocabulary(config, tokenizers[directory], directory)
        contexts.append(config.max_seq_len)
    first, ours = next(iter(tokenizers.items()))
    for directory, theirs in tokenizers.items():
        if theirs.sha256 != ours.sha256:
            found = f"a tokenizer of SHA-256 {theirs.sha256[:12]}"
            raise BadInput(directory, found, f"{ours.sha256[:12]}, that of {first}")
    return ours, min(contexts)


def _run(
    console: Console,
    out: str,
    models: dict[str, str | None],
    prompts: list[str] | None,
    eval_prompts: list[str] | None,
    settings: Settings,
    device: torch.device,
    offload: bool,
    overwrite: bool,
) -> None:
    from dataclasses import asdict

    from cmds.sampling import encode_prompts
    from cmds.training import parent, read_inputs, tell_overlap
    from l2.align.ppo_run import load_ppo, run_ppo
    from l2.align.rollouts import as_prompts
    from l2.files.manifest import open_run
    from l2.model.device import keep_memory, use_all_cores
    from l2.train.ranks import open_shared, start_ranks

    keep_memory()
    threads = use_all_cores()
    tokenizer, context = _check_models(models)
    records, inputs = read_inputs(prompts, ["prompt"])
    held_out, held_out_inputs = read_inputs(eval_prompts, ["prompt"]) if eval_prompts else ([], [])
    tell_overlap(console, {"prompts": inputs, "eval_prompts": held_out_inputs})
    room = context - settings.max_new_tokens
    if room < 1:
        raise UsageError(f"--max-new-tokens {settings.max_new_tokens}: the models see {context}, prompt included")
    asked, kept_out = (as_prompts(part, encode_prompts(part, tokenizer), room) for part in (records, held_out))
    parents = {role: parent(directory) for role, directory in models.items() if directory is not None}
    identity = models | asdict(settings) | {"dtype": str(settings.dtype).removeprefix("torch.")}
    del identity["micro_batch"]  # decides nothing
    given = {"prompts": inputs, "eval_prompts": held_out_inputs} | parents
    with (
        start_ranks(device) as ranks,
        open_shared(ranks, lambda: open_run(out, identity, given, overwrite=overwrite)) as run,
    ):
        if run.state == "finished":
            console.say(f"{out}: already finished; nothing to do (--overwrite starts again)")
        else:
            if ranks.first:
                run.save(device=str(device), threads=threads, ranks=ranks.world)
            made = load_ppo(models, settings, asked, kept_out, tokenizer, device=device, offload=offload, ranks=ranks)
            with console.progress("iterations") as progress:
                last = run_ppo(made, run, tokenizer, on_progress=progress, on_alarm=console.say)
            if ranks.first:
                run.finish(result=last)
            if "stopped" in last:
                console.say(f"stopped early: {last['stopped']}")
            shown = ("reward", "val_reward", "kl", "length", "eos_rate")
            console.say(f"{out}: " + ", ".join(f"{name} {last[name]:.4f}" for name in shown if name in last))
        if ranks.first:
            print(out)
