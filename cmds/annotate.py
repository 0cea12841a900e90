"""l2 annotate."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmds.console import Console
from cmds.options import Device, Quiet, Seed
from cmds.sampling import Dtype, MaxNewTokens, TopP
from l2.files.errors import Stopped, UsageError

if TYPE_CHECKING:
    from l2.align.annotation.board import Board, Item
    from l2.align.annotation.desk import Desk
    from l2.align.annotation.sampling import Couple

JUDGED_AT_ONCE = 64  # prompts that are sampled together where no person waits (ours)


def annotate(
    output: Annotated[str, typer.Option("-o", "--output", help="Preferences, a .jsonl that each choice is added to.")],
    samples: Annotated[
        list[str] | None,
        typer.Option("--samples", help="Answers made already, several a prompt (generate -n 2).", show_default=False),
    ] = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            "--prompts", help="Prompts to answer by --a and --b; none: people write them.", show_default=False
        ),
    ] = None,
    a: Annotated[str | None, typer.Option("--a", help="Checkpoint that answers.", show_default=False)] = None,
    b: Annotated[str | None, typer.Option("--b", help="The other one; none is --a again.", show_default=False)] = None,
    temperature_a: Annotated[float, typer.Option("--temperature-a", min=0.0, help="Of --a; 0 is greedy.")] = 1.0,
    temperature_b: Annotated[float, typer.Option("--temperature-b", min=0.0, help="Of --b; 0 is greedy.")] = 1.0,
    top_p: TopP = 1.0,
    max_new_tokens: MaxNewTokens = 256,
    safety: Annotated[
        bool, typer.Option("--safety", help="Ask which answer is safer, and which are safe (paper §3.2.1).")
    ] = False,
    turns: Annotated[
        int, typer.Option("--turns", min=1, help="Longest dialog; people write the turns after the first.")
    ] = 1,
    overlap: Annotated[int, typer.Option("--overlap", min=1, help="Judgements of an item, each by another.")] = 1,
    checks: Annotated[
        list[str] | None,
        typer.Option("--checks", help="Attention checks: preferences beyond doubt, one in ten.", show_default=False),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option("--judge", help="Command that adds scores to samples, in people's place.", show_default=False),
    ] = None,
    noise: Annotated[float, typer.Option("--noise", min=0.0, help="Scale of the logistic noise on --judge.")] = 0.0,
    report: Annotated[bool, typer.Option("--report", help="Print what the judgements at -o tell, and end.")] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="On 127.0.0.1; 0 is any that is free.")] = 0,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
) -> None:
    """Have people compare two answers, blind and in random order, on a web page of this machine: preferences out.

    Open the address that is printed, one name a person; nothing else can reach it. Every choice is on disk before the
    next is shown; the same command goes on where it was stopped. With --judge, a command that reads samples and writes
    them with a score (or rewards) stands in for --overlap people, as "l2 score --rm helpful=DIR".

    Example: l2 annotate --samples samples.jsonl -o preferences.jsonl
    """
    from l2.align.annotation.desk import Desk, read_events
    from l2.align.annotation.report import report as figures
    from l2.align.annotation.report import report_lines

    if report:
        print(*report_lines(figures(read_events(output))), sep="\n")
        return
    console = Console("annotate", quiet)
    board, settings = _board(console, samples, prompts, a, safety, turns, overlap, checks, bool(judge), seed)
    if judge is None and noise:
        raise UsageError("--noise is of --judge")
    used = {"a": a, "b": b or a, "temperature_a": temperature_a, "temperature_b": temperature_b}
    used |= {"top_p": top_p, "max_new_tokens": max_new_tokens} if a else {}
    desk = Desk(board, output, settings | (used if a else {}) | ({"noise": noise} if judge else {}))
    try:
        couple = None
        if a is not None and not board.complete:
            couple = _couple(a, b or a, (temperature_a, temperature_b), top_p, max_new_tokens, seed, device, dtype)
        if judge is not None:
            _judge(console, desk, couple, judge, noise, seed)
        elif board.complete:
            console.say(f"{output}: all is judged; nothing to do (--overlap asks for more)")
        else:
            _serve(console, desk, couple, port)
    finally:
        desk.close()
    for line in report_lines(figures(desk.events())):
        console.say(line)
    if failed := [item for item in board.items.values() if item.failed and item.owner is None]:
        console.say(f"{len(failed):,} prompts got no two answers; the first, {failed[0].id}: {failed[0].failed}")
    if judge is None and not board.writing and not board.complete:
        raise Stopped(f"{output}: not all is judged; run the same command again to go on")


def _board(
    console: Console,
    samples: list[str] | None,
    prompts: list[str] | None,
    a: str | None,
    safety: bool,
    turns: int,
    overlap: int,
    checks: list[str] | None,
    judged: bool,
    seed: int,
) -> tuple[Board, dict[str, Any]]:
    """What is to be compared, and what that was read from. Raises UsageError for options that contradict."""
    from cmds.training import read_inputs
    from l2.align.annotation.board import Board
    from l2.align.annotation.items import from_checks, from_prompts, from_samples

    if (samples is None) == (a is None):
        raise UsageError("give --samples FILE, or models that answer: --a DIR --b DIR --prompts FILE")
    if samples and (prompts or turns > 1):
        raise UsageError("--prompts and --turns need models that answer: --a DIR --b DIR in the place of --samples")
    if judged and (turns > 1 or not (samples or prompts)):
        raise UsageError("--judge writes nothing: give it --samples or --prompts, and no --turns")
    settings: dict[str, Any] = {"safety": safety, "judged": judged, "seed": seed}
    items: list[Item] = []
    known: list[Item] = []
    if samples:
        records, settings["samples"] = read_inputs(samples, ["prompt", "response"])
        items, same = from_samples(records)
        if same:
            console.say(f"{same:,} pairs of the same answer twice are left out")
    if prompts:
        records, settings["prompts"] = read_inputs(prompts, ["prompt"])
        items = from_prompts(records)
    if checks:
        records, settings["checks"] = read_inputs(checks, ["prompt", "chosen", "rejected"])
        known = from_checks(records)
    source = "simulated" if judged else "human"
    board = Board(
        items, known,
        safety=safety, overlap=overlap, turns=turns, writing=not items, source=source, seed=seed,
    )  # fmt: skip
    return board, settings


def _couple(
    a: str, b: str, temperatures: tuple[float, float], top_p: float, longest: int, seed: int, device: str, dtype: str
) -> Couple:
    """The two models; one that is named twice is loaded once."""
    from cmds.sampling import open_policy
    from l2.align.annotation.sampling import Couple, Variant
    from l2.generate.engine import Sampling

    if a == b and temperatures == (0.0, 0.0):
        raise UsageError("one model at temperature 0 gives the same answer twice; give another --b, or a temperature")
    opened = {name: open_policy(name, device, dtype) for name in dict.fromkeys((a, b))}
    first, second = (
        Variant(*opened[name], Sampling(temperature, top_p, longest), name)
        for name, temperature in zip((a, b), temperatures, strict=True)
    )
    return Couple(first, second, seed)


def _judge(console: Console, desk: Desk, couple: Couple | None, command: str, noise: float, seed: int) -> None:
    from l2.align.annotation.judge import simulate

    if couple is not None:
        waiting = [item for item in desk.board.items.values() if item.answers is None]
        with console.progress("prompts") as progress:
            for start in range(0, len(waiting), JUDGED_AT_ONCE):
                couple.fill(waiting[start : start + JUDGED_AT_ONCE])
                progress(min(start + JUDGED_AT_ONCE, len(waiting)), len(waiting))
    if left_out := simulate(desk, command, noise, seed):
        console.say(f"{left_out:,} pairs left out: the unsafe answer was preferred to the safe one (paper §3.2.1)")


def _serve(console: Console, desk: Desk, couple: Couple | None, port: int) -> None:
    """Serve the page until Ctrl-C or SIGTERM. Raises what stops the sampling."""
    try:
        from l2.align.annotation.server import Service, listen, make_app
    except ImportError:
        raise UsageError("the page needs a web server: pip install 'l2[annotate]'") from None
    from l2.align.annotation.sampling import Ahead

    token, broken = secrets.token_urlsafe(24), list[BaseException]()

    def fail(error: BaseException) -> None:
        broken.append(error)
        service.stop()

    ahead = Ahead(desk, couple, fail) if couple else None
    with listen(port) as at:
        service = Service(make_app(desk, token, ahead), at)
        if ahead:
            ahead.start()
        # On stdout, also when --quiet: without the token nobody gets in.
        print(f"http://127.0.0.1:{at.getsockname()[1]}/{token}/", flush=True)
        console.say("open this address, one name a person; Ctrl-C ends")
        service.run_here()
        if ahead:
            ahead.stop()
    if broken:
        raise broken[0]
