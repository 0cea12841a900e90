"""An `l2` that starts in milliseconds: a process that has imported everything forks for each call.

python -m tests.warm SOCKET        waits at SOCKET, prints a line once it does
python -I -S tests/warm.py SOCKET ARGV...   runs `l2 ARGV...` with the caller's streams, folder and environment
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys


def call(path: str, argv: list[str]) -> int:
    """Its exit status."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        asked = json.dumps([argv, os.getcwd(), dict(os.environ)]).encode()
        socket.send_fds(server, [b"%20d" % len(asked)], [0, 1, 2])
        server.sendall(asked)
        fork = int(server.recv(10))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: os.kill(fork, number))
        return int(server.recv(4) or b"141")  # silent where a signal ended it, as SIGPIPE does


def answer(asked: socket.socket) -> None:
    """In a fork: become the command that was asked for."""
    length, streams, _, _ = socket.recv_fds(asked, 20, 3)
    with asked.makefile("rb") as words:
        argv, folder, environment = json.loads(words.read(int(length)))
    asked.sendall(b"%10d" % os.getpid())
    for stream, to in enumerate(streams):
        os.dup2(to, stream)
    for to in streams:
        os.close(to)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["l2", *argv]
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    from cmds.app import main

    status = 1
    try:
        status = main(argv)
        sys.stdout.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        asked.sendall(b"%d" % status)
        os._exit(0)


def serve(path: str) -> None:
    """Until killed."""
    import importlib
    import pkgutil

    import l2
    from cmds.app import COMMANDS, typer_command

    importlib.import_module("torch._dynamo")  # which torch's optimizers import when the first is made
    for module in pkgutil.walk_packages(l2.__path__, "l2."):
        importlib.import_module(module.name)
    for name in COMMANDS:
        importlib.import_module("cmds." + name.replace("-", "_"))
    typer_command("doctor").make_context("doctor", [])  # and what typer imports to read its first arguments
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(16)
        print("ready", flush=True)
        while True:
            asked, _ = server.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                server.close()
                answer(asked)
            asked.close()


if __name__ == "__main__":
    if sys.argv[2:]:
        sys.exit(call(sys.argv[1], sys.argv[2:]))
    serve(sys.argv[1])
