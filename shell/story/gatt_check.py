"""Does an answer obey its instruction? And the next turn of a dialog, so that a model talks through it with itself.

Ghost Attention is judged as in the paper's Table 30: the instruction stands in the first turn alone, the model's own
answers follow, and at every turn a program checks whether it is still obeyed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer
from scripts import run

from cmds.options import Inputs, Output
from l2.files.errors import BadInput
from l2.files.jsonl import Record, open_writer, read_records

KINDS = ("prefix", "suffix")


def obeys(constraint: Mapping[str, Any], answer: str) -> bool:
    """Whether `answer` begins (kind "prefix") or ends ("suffix") with what `constraint` expects."""
    answer = answer.strip()
    return (answer.startswith if constraint["kind"] == "prefix" else answer.endswith)(constraint["expect"])


def checked(record: Record) -> dict[str, Any]:
    """A sample with `obeyed` added. Raises BadInput for a constraint that can't be checked."""
    constraint = record.need("constraint", dict)
    if constraint.get("kind") not in KINDS or not constraint.get("expect"):
        raise BadInput(record.where, f"the constraint {constraint}", f"kind {' or '.join(KINDS)}, and expect")
    return record | {"obeyed": obeys(constraint, record.need("response"))}


def following(record: Record) -> dict[str, Any] | None:
    """The prompt of the turn after a sample's: its answer, then the next of its `turns`. None when none is left."""
    prompt, turns = record.need("prompt", list), record.need("turns", list)
    if not turns:
        return None
    answer = {"role": "assistant", "content": record.need("response")}
    return {
        "prompt": [*prompt, answer, {"role": "user", "content": turns[0]}],
        "id": record.need("id"),
        "turn": record.need("turn", int) + 1,
        "turns": turns[1:],
        "constraint": record.need("constraint", dict),
    }


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def obey(samples: Inputs = None, output: Output = "-") -> None:
    """Samples with a constraint to the same with `obeyed`.

    Example: python gatt_check.py obey turn-*.jsonl -o obeyed.jsonl
    """
    with open_writer(output) as writer:
        for record in read_records(samples or ()):
            writer.write(checked(record))


@app.command("next")
def next_turn(samples: Inputs = None, output: Output = "-") -> None:
    """Samples to the prompts of the next turn; dialogs without another turn end.

    Example: python gatt_check.py next turn-1.jsonl | l2 generate --model runs/gatt --prompts - -o turn-2.jsonl
    """
    with open_writer(output) as writer:
        for record in read_records(samples or ()):
            if prompt := following(record):
                writer.write(prompt)


if __name__ == "__main__":
    run(app)
