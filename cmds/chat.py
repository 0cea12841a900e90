"""l2 chat."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from cmds.console import Console
from cmds.options import Device, Dtype, Model, Quiet, Seed
from cmds.sampling import MaxNewTokens, Temperature, TopP


def chat(
    model: Model,
    system: Annotated[str | None, typer.Option("--system", help="System message.", show_default=False)] = None,
    temperature: Temperature = 0.6,
    top_p: TopP = 0.9,
    max_new_tokens: MaxNewTokens = 256,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
) -> None:
    """Talk to a model: each line is a turn, the answers are on stdout, Ctrl-D ends. Also works in a pipe.

    Temperature and top-p are Meta's defaults. When the context is full, the oldest turns are forgotten.

    Example: l2 chat --model runs/chat --system "Answer in one sentence."
    """
    from cmds.sampling import open_policy
    from l2.generate.engine import Sampling, prompt_key
    from l2.generate.engine import generate as sample
    from l2.tokens.chat import check_messages, encode_prompt

    console = Console("chat", quiet)
    policy, tokenizer = open_policy(model, device, dtype)
    room = policy.config.max_seq_len - max_new_tokens
    start: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    turns: list[dict[str, Any]] = []
    if sys.stdin.isatty():
        import readline  # noqa: F401  line editing in input()

        console.say(f"{model}; a line is a turn, Ctrl-D ends")
    for number, line in enumerate(_lines()):
        messages = check_messages([*start, *turns, {"role": "user", "content": line}], "this turn")
        while len(encode_prompt(tokenizer, messages)) > room and len(turns) >= 2:
            console.say("the context is full; the oldest turn is forgotten")
            del turns[:2]
            messages = [*start, *turns, {"role": "user", "content": line}]
        sampling = Sampling(temperature, top_p, min(max_new_tokens, policy.config.max_seq_len - 1), seed)
        ids = encode_prompt(tokenizer, messages)
        answer = sample(policy, [ids], [prompt_key(number)], sampling, eos_id=tokenizer.eos_id)[0][0]
        text = tokenizer.decode(answer.tokens).strip()
        print(text, flush=True)
        turns += [{"role": "user", "content": line}, {"role": "assistant", "content": text}]


def _lines() -> Any:
    """Lines that people type, or that a pipe brings; empty ones are passed over."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if line:
            yield line
