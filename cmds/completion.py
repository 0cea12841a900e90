"""Completion of commands, flags and choices by the shell: typer's own, over commands imported one at a time."""

from __future__ import annotations

import os
import re
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from cmds.app import COMMANDS, VARIABLE, typer_command

FLAGS = ("--install-completion", "--show-completion")
SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")


class Commands(TyperGroup):
    """All commands by name and one line; the one whose flags are asked for is imported."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names, in the order of `l2 --help`."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand:
        """What stands for a command in a list."""
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name][1], rich_markup_mode=None)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command itself, and what follows its name."""
        name, *rest = args
        command = typer_command(name) if name in COMMANDS else None
        for option in command.params if command else ():
            option.help = in_short(option.help or "")
        return name, command, rest


def in_short(text: str) -> str:
    """The beginning of an option's help, up to the first mark: a shell shows one line, and zsh evaluates it."""
    return re.split(r"[^\w\s,/%-]", text, maxsplit=1)[0].strip()


def complete(argv: list[str]) -> None:
    """Answer the shell, which asks by the environment, or one of FLAGS with the shell's name or none: the one in use.

    Ends by SystemExit, as typer does.
    """
    if argv[:1] == ["--show-completion"] and len(argv) == 2 and argv[1] in SHELLS:
        os.environ[VARIABLE] = f"source_{argv.pop()}"
    app = typer.Typer(cls=Commands, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    typer.main.get_command(app).main(args=argv, prog_name="l2", complete_var=VARIABLE)
