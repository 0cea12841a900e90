"""Runs a command as torchrun would, in ranks that are forks of one process: torch is imported once, not once a rank.

python -m tests.train.forks WORLD LOCAL COMMAND ARGS...: WORLD ranks on pretended nodes of LOCAL each; ends with the
greatest exit status of any.
"""

from __future__ import annotations

import os
import socket
import sys


def rank(number: int, world: int, local: int, port: int, argv: list[str]) -> int:
    """Starts one rank; returns its process."""
    child = os.fork()
    if child:
        return child
    from cmds.app import main

    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(world), "LOCAL_RANK": str(number % local)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(local), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    status = main(argv)
    sys.stdout.flush()
    os._exit(status)


def main() -> int:
    """See above."""
    import torch._dynamo  # which the first weight that is cut asks for
    import torch.distributed.fsdp
    import torch.distributed.tensor  # noqa: F401

    import l2.align.ppo_run
    import l2.align.reward
    import l2.align.sft
    import l2.generate.samples
    import l2.train.pretrain  # noqa: F401  torch and all, before the first fork

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world, local, argv = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    ranks = [rank(number, world, local, port, argv) for number in range(world)]
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in ranks)


if __name__ == "__main__":
    sys.exit(main())
