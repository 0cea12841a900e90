"""l2 doctor."""

from __future__ import annotations

from dataclasses import asdict
from json import dumps
from typing import Annotated

import typer

from l2.files.errors import L2Error

MARKS = {"ok": " ", "slower": "~", "refused": "-", "missing": "!"}
FOLLOWS = 64  # the column at which the settings stand


def doctor(
    json: Annotated[bool, typer.Option("--json", help="The same for machines, as one JSON object.")] = False,
) -> None:
    """Tell what this machine can do, and the settings that follow: threads, dtype, attention, what is compiled.

    In front of a line: ~ works, but slower than it could; - a command or a flag of one refuses; ! l2 does not work
    without (exit 1). What mends it stands at the end. Measures products for a second; reads no network.

    Example: l2 doctor --json > machine.json
    """
    from l2.doctor import examine

    found = examine()
    missing = [each.what for each in found if each.verdict == "missing"]
    if json:
        print(dumps({"ok": not missing, "findings": [asdict(each) for each in found]}))
    else:
        wide = max(len(each.what) for each in found)
        for each in found:
            line = f"{MARKS[each.verdict]} {each.what:<{wide}}  {each.found}"
            if each.follows:
                line = f"{line:<{FOLLOWS}}  " if len(line) <= FOLLOWS else f"{line}\n{'':<{FOLLOWS}}  "
            print(line + each.follows)
        mends = [(each.what, each.mend) for each in found if each.mend]
        if mends:
            print("\nWhat mends it:")
        for what, mend in mends:
            print(f"  {what:<{wide}}  {mend}")
    if missing:
        raise L2Error(f"l2 needs {', '.join(missing)}")
