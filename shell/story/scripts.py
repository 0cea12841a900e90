"""How the scripts of the story start and fail: as the commands of l2 do, with one sentence and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from l2.files.errors import L2Error


def run(main: Callable[..., Any] | typer.Typer) -> None:
    """Call `main` with the command line's options and exit; errors that people can act on become one sentence."""
    name = Path(sys.argv[0]).name
    if not isinstance(main, typer.Typer):
        app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        app.command()(main)
        main = app
    try:
        main()
    except L2Error as error:
        sys.exit(_fail(name, str(error), error.status))
    except OSError as error:
        sys.exit(_fail(name, f"{error.filename}: {error.strerror}" if error.filename else str(error), 1))


def _fail(name: str, message: str, status: int) -> int:
    print(f"{name}: {message}", file=sys.stderr)
    return status
