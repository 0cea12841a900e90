"""l2 chat."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from cmds.console import Console
from cmds.options import Device, Model, Quiet, Seed
from cmds.sampling import Dtype, MaxNewTokens
from l2.files.errors import BadInput, L2Error, UsageError

if TYPE_CHECKING:
    from l2.generate.conversation import Conversation


def chat(
    model: Model,
    system: Annotated[str | None, typer.Option("--system", help="System message.", show_default=False)] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="Sampling temperature; 0 is greedy (Meta's).")
    ] = 0.6,
    top_p: Annotated[
        float, typer.Option("--top-p", min=0.0, max=1.0, help="Nucleus of this mass; 1 is everything (Meta's).")
    ] = 0.9,
    max_new_tokens: MaxNewTokens = 256,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
) -> None:
    """Talk to a model: each line is a turn, the answers are on stdout, Ctrl-D ends. Also works in a pipe.

    /system TEXT sets the system message, /reset forgets what was said, /save FILE appends the dialog to FILE. Ctrl-C
    ends the answer, and twice at the prompt the chat. When the context is full, the oldest turns are forgotten.

    Example: l2 chat --model runs/chat --system "Answer in one sentence."
    """
    from cmds.sampling import open_policy
    from l2.generate.conversation import Conversation
    from l2.generate.engine import Sampling

    console = Console("chat", quiet)
    policy, tokenizer = open_policy(model, device, dtype)
    conversation = Conversation(policy, tokenizer, Sampling(temperature, top_p, max_new_tokens, seed), system)
    person = sys.stdin.isatty()
    if person:
        import readline  # noqa: F401  line editing in input()

        console.say(f"{model}; a line is a turn; /system TEXT, /reset, /save FILE; Ctrl-D ends")
    for line in _typed(console.say) if person else _piped():
        try:
            if line.startswith("/"):
                console.say(_command(conversation, line))
                continue
            forgotten, _ = conversation.say(line, _print)
        except L2Error as error:
            if not person:
                raise
            console.say(str(error))
            continue
        print(flush=True)
        if forgotten:
            console.say(f"the context is full; {forgotten} of the oldest turns forgotten")


def _print(text: str) -> None:
    print(text, end="", flush=True)


def _command(conversation: Conversation, line: str) -> str:
    """Do what a line that starts with "/" asks; returns what to say of it.

    Raises UsageError for an unknown one, and L2Error for a file that can't be written.
    """
    from l2.files.jsonl import append_records
    from l2.tokens.chat import check_messages

    name, _, rest = line.partition(" ")
    rest = rest.strip()
    if name == "/reset":
        conversation.reset()
        return "all forgotten"
    if name == "/system":
        if rest:
            check_messages([{"role": "system", "content": rest}, {"role": "user", "content": ""}], "/system")
        conversation.system = rest or None
        return "system message set" if rest else "no system message"
    if name == "/save" and rest:
        if not conversation.turns:
            raise UsageError("/save: nothing was said yet")
        try:
            append_records(rest, [{"messages": conversation.messages()}])
        except OSError as error:
            raise L2Error(f"/save {rest}: can't be written ({error.strerror})") from None
        return f"dialog appended to {rest}"
    raise UsageError(f"{name}: use /system TEXT, /reset or /save FILE; Ctrl-D ends")


def _typed(say: Callable[[str], None]) -> Iterator[str]:
    """Lines that a person types; empty ones are passed over. Ctrl-D ends, and so does Ctrl-C twice in a row."""
    asked = False
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            if asked:
                return
            asked = True
            say("/save FILE keeps what was said; Ctrl-C again, or Ctrl-D, ends")
            continue
        asked = False
        if line:
            yield line


def _piped() -> Iterator[str]:
    """Lines of stdin; empty ones are passed over. Raises BadInput for bytes that are no text."""
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            text = line.decode().strip()
        except UnicodeDecodeError as error:
            raise BadInput(f"stdin:{number}", f"bytes that are not UTF-8 ({error.reason})", "UTF-8 text") from None
        if text:
            yield text
