"""Runs a command in many short lives: imports once, then forks for each and kills it at a random moment.

python -m tests.train.lives KILLS SEED LONGEST COMMAND ARGS...: prints how the lives ended, the last one undisturbed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time


def life(argv: list[str], seconds: float | None) -> int:
    """The exit status of one life of the command, or minus the signal that ended it."""
    child = os.fork()
    if not child:
        from cmds.app import main

        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        os._exit(main(argv))
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """See above."""
    import l2.train.pretrain  # noqa: F401  torch and all, before the first life

    kills, seed, longest, argv = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]
    chance = random.Random(seed)
    ends = [life(argv, chance.uniform(0, longest)) for _ in range(kills)]
    print(*ends, life(argv, None))


if __name__ == "__main__":
    main()
