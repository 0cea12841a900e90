"""Answers joined into dialogs of one, two, three and four turns, in turn: talk that changes its subject."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, cycle, islice
from typing import Annotated, Any

import typer
from scripts import run

from cmds.options import Inputs, Output
from l2.files.jsonl import Record, read_records, write_records
from l2.tokens.chat import messages_of

TURNS = (1, 2, 3, 4)


def turns_of(record: Record) -> list[dict[str, Any]]:
    """The messages of a dialog, or of a sample."""
    if "messages" in record:
        return messages_of(record, "messages")
    return [*messages_of(record, "prompt"), {"role": "assistant", "content": record.need("response")}]


def chained(records: Iterable[Record], asking: bool) -> Iterator[dict[str, Any]]:
    """The records in their order, so many as one dialog; `asking`: a prompt, without the last answer."""
    rest = iter(records)
    for turns in cycle(TURNS):
        if not (joined := list(islice(rest, turns))):
            return
        messages = [*chain.from_iterable(map(turns_of, joined))]
        yield {"id": joined[0]["id"]} | ({"prompt": messages[:-1]} if asking else {"messages": messages})


def main(
    files: Inputs = None,
    asking: Annotated[bool, typer.Option("--asking", help="Leave out the last answer: prompts.")] = False,
    output: Output = "-",
) -> None:
    """Join dialogs or samples of one turn.

    Example: l2 rs-sample prompts.jsonl --model ppo --rm rm | python chain.py -o talks.jsonl
    """
    write_records(output, chained(read_records(files or (), required=("id",)), asking))


if __name__ == "__main__":
    run(main)
