"""The `l2` app: finds the command, imports it alone, runs it, and turns errors into sentences and exit statuses.

Settled here for all commands (design.md §3):
  0 done, 1 failed, 2 usage, 65 bad input data, 75 stopped by a signal after saving; a closed pipe is silent.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import sys
from difflib import get_close_matches
from typing import Any

# name: (group, one line). The module is cmds/NAME.py with - as _, and is imported only when it is called.
COMMANDS: dict[str, tuple[str, str]] = {
    "filter": ("Data", "keep the documents worth training on: language, quality, duplicates"),
    "audit": ("Data", "languages, pronouns, identity terms, toxicity and sources of a corpus"),
    "tok-train": ("Data", "train a SentencePiece tokenizer with the paper's settings"),
    "tokenize": ("Data", "turn documents into token shards"),
    "pretrain": ("Training", "train a base model on token shards"),
    "sft": ("Training", "fine-tune on dialogs, learning the answers only"),
    "rm-train": ("Training", "train a reward model on preferences"),
    "rs-sample": ("Alignment", "sample K answers per prompt and keep the best (rejection sampling)"),
    "ppo": ("Alignment", "tune a policy against two reward models (PPO)"),
    "gatt-build": ("Alignment", "make dialogs that teach a lasting system instruction (Ghost Attention)"),
    "distill-build": ("Alignment", "make dialogs that teach safe answers (safety context distillation)"),
    "temporal-build": ("Alignment", "make dialogs that teach a model to mind the date it is told"),
    "annotate": ("Alignment", "have people compare answers on a local web page: preferences"),
    "evaluate": ("Evaluation", "bits per byte, multiple choice, exact match, rewards, win rates"),
    "compare": ("Evaluation", "win, tie and loss of two models' answers; people's ratings; red teams"),
    "survey": ("Evaluation", "what samples say of their models: diversity, rewards, refusals, toxicity"),
    "contam": ("Evaluation", "how much of an evaluation stands in the training shards, and whether it helped"),
    "drops": ("Evaluation", "fail where the newest model of a history of results has lost a score"),
    "report": ("Evaluation", "one page, text or a model card of what runs and evaluations say"),
    "generate": ("Tools", "sample answers to prompts"),
    "score": ("Tools", "add reward-model scores to samples or dialogs"),
    "chat": ("Tools", "talk to a model in the terminal"),
    "convert": ("Tools", "checkpoints to and from Meta's layout and llama2.c, with proof"),
    "doctor": ("Tools", "what this machine can do, and the settings that follow"),
}

# Options whose values the shell may have expanded from a pattern: they take every word up to the next option.
MANY = {
    "--shards",
    "--val-shards",
    "--data",
    "--eval-data",
    "--prompts",
    "--eval-prompts",
    "--pool",
    "--task",
    "--decontaminate",
    "--checks",
    "--baseline",
}


VARIABLE = "_L2_COMPLETE"  # set by a shell that asks what may come next


class ClosedPipe(Exception):
    """Nobody reads our stdout any more."""


class Interrupted(Exception):
    """Ctrl-C."""


def help_text() -> str:
    """What `l2 --help` prints."""
    lines = [
        "Usage: l2 COMMAND [ARGS]...",
        "",
        "Raw text to a chat model tuned with human feedback, as in the Llama 2 paper.",
    ]
    group, width = "", max(map(len, COMMANDS))
    for name, (of, line) in COMMANDS.items():
        if of != group:
            lines += ["", f"{of}:"]
            group = of
        lines.append(f"  {name:<{width}} {line}")
    lines += [
        "",
        "l2 COMMAND --help tells more; l2 --install-completion teaches your shell commands and flags.",
        "Try: l2 doctor",
    ]
    return "\n".join(lines)


def spread(argv: list[str]) -> list[str]:
    """Repeat each option of MANY before every one of its values: `--data a b` becomes `--data a --data b`."""
    out: list[str] = []
    many = ""
    for word in argv:
        if word.startswith("-") and word != "-":
            many = word if word in MANY else ""
            out.append(word)
        elif many and out[-1] != many:
            out += [many, word]
        else:
            out.append(word)  # an argument, or the first value of an option
    return out


def typer_command(name: str) -> Any:
    """What typer makes of the function in the module of command `name`, which is imported."""
    import typer

    class Command(typer.core.TyperCommand):
        def make_context(self, *args: Any, **extra: Any) -> Any:
            try:
                return super().make_context(*args, **extra)
            except typer.BadParameter as error:
                error.message = error.message.removeprefix("Value error, ")  # of pydantic, which people don't know
                raise

    module = importlib.import_module("cmds." + name.replace("-", "_"))
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    function = getattr(module, name.replace("-", "_"))

    @functools.wraps(function)
    def command(**options: Any) -> None:
        # typer would make exit statuses out of these two without a word
        try:
            function(**options)
            sys.stdout.flush()
        except BrokenPipeError:
            raise ClosedPipe from None
        except KeyboardInterrupt:
            raise Interrupted from None

    app.command(name=name, cls=Command, context_settings={"help_option_names": ["-h", "--help"]})(command)
    return typer.main.get_command(app)


def run(name: str, argv: list[str]) -> None:
    """Call the command `name` with `argv`."""
    # OpenMP threads that spin while they wait starve one another when anything else runs: 19,000 tokens/s fell to 300
    # beside one busy process. A short spin costs nothing alone (LOG.md). Read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    typer_command(name).main(args=spread(argv), prog_name=f"l2 {name}", standalone_mode=True)


def fail(command: str, message: str, status: int) -> int:
    """Print one sentence to stderr; returns `status`."""
    print(f"l2 {command}: {message}", file=sys.stderr)
    return status


def main(argv: list[str] | None = None) -> int:
    """Run `l2 ARGV...` and return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if VARIABLE not in os.environ and (not argv or argv[0] in ("-h", "--help", "help")):
        print(help_text())
        return 0
    if VARIABLE in os.environ or argv[0] in ("--install-completion", "--show-completion"):
        from cmds.completion import complete

        complete(argv)
    name, rest = argv[0], argv[1:]
    if name == "--version":
        from l2.files.manifest import version

        print(f"l2 {version()}")
        return 0
    if name not in COMMANDS:
        close = [known for known in COMMANDS if len(name) > 2 and name in known] or get_close_matches(name, COMMANDS, 1)
        meant = f"did you mean {' or '.join(close)}? " if close else ""
        print(f"l2: no command {name!r}; {meant}see l2 --help", file=sys.stderr)
        return 2
    return guarded(name, rest)


def guarded(name: str, argv: list[str]) -> int:
    """Run a command; errors that people can act on become one sentence, all others stay tracebacks."""
    from l2.files.errors import L2Error

    try:
        run(name, argv)
    except L2Error as error:
        return fail(name, str(error), error.status)
    except ClosedPipe:
        # The reader has seen enough. End as the signal would have ended us, after files were tidied up.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
    except IsADirectoryError as error:
        return fail(name, f"{error.filename}: a directory; name the file or files in it", 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return fail(name, f"{where}{error.strerror or error}", 1)
    except (Interrupted, KeyboardInterrupt):
        return fail(name, "interrupted", 130)
    except SystemExit as end:
        return exit_status(end)
    return 0


def exit_status(end: SystemExit) -> int:
    """The number that a SystemExit carries."""
    code: Any = end.code
    return code if isinstance(code, int) else int(code is not None)


def end_tidily(number: int, frame: object) -> None:
    """For signals that would end us in the middle: as after Ctrl-C, what is half made is removed first."""
    raise SystemExit(128 + number)


def entry() -> None:
    """The console script."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # a rank may wait for others in C++ where no handler is called
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:  # nohup has it ignored
                signal.signal(number, end_tidily)
    # Closed by whoever started us: nothing comes in, and nobody is told. Results must not be lost like that.
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    status = main() if sys.stdout else fail("", "stdout is closed; redirect it to a file or to /dev/null", 1)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # A rank that torchrun started, all saved: as the interpreter is taken down, threads of its process group abort
        # it now and then, and torchrun calls that a failed run.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    entry()
