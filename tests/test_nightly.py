"""shell/nightly-eval.sh as cron runs it: no environment, no terminal, killed in the middle, and with worse weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.eval.scripted import saved, saying

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "shell" / "nightly-eval.sh"

# Stands for `l2 evaluate`: a row a task, as slow and as broken as the files beside it say. `l2 drops` is the real one.
STUB = """#!/bin/bash
[ "$1" = evaluate ] || exec {python} -m cmds.app "$@"
echo "$5" >> {home}/asked
[ ! -e {home}/hang ] || {{ [ "$5" != two=b ] || sleep 60; }}
[ ! -e {home}/break ] || {{ echo "l2 evaluate: it broke" >&2; exit 1; }}
score=$(cat "$3/score")
echo '{{"task":"'"${{5%%=*}}"'","metric":"accuracy","value":'"$score"',"stderr":0.01,"model":"'"$3"'"}}' > "$7.new"
mv "$7.new" "$7"
"""


@pytest.fixture
def home(tmp_path):
    checkpoint(tmp_path, "step-1", 0.7)
    command = tmp_path / "l2"
    command.write_text(STUB.format(python=sys.executable, home=tmp_path))
    command.chmod(0o755)
    return tmp_path


def checkpoint(home: Path, name: str, score: float) -> None:
    path = home / "runs" / "checkpoints" / name
    path.mkdir(parents=True)
    (path / "score").write_text(str(score))
    (path / "config.json").write_text("{}")


def command(home: Path, *more: str, tasks: tuple[str, ...] = ("one=a", "two=b")) -> list[str]:
    """What stands in a crontab, run as cron would."""
    env = ["env", "-i", f"L2={home / 'l2'}", f"PYTHONPATH={ROOT}"]
    return [*env, str(SCRIPT), *("--runs", str(home / "runs"), "--history", str(home / "h.jsonl")),
            "--task", *tasks, *more]  # fmt: skip


def night(home: Path, *more: str, **settings: tuple[str, ...]) -> tuple[int, str]:
    """Exit status and stderr of a run."""
    done = subprocess.run(command(home, *more, **settings), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.stdout == ""
    return done.returncode, done.stderr


def history(home: Path) -> list[tuple[str, float]]:
    return [(row["task"], row["value"]) for row in map(json.loads, (home / "h.jsonl").read_text().splitlines())]


def asked(home: Path) -> list[str]:
    return (home / "asked").read_text().split()


def test_each_checkpoint_is_evaluated_once_and_a_drop_is_told(home):
    assert night(home) == (0, "")
    assert night(home) == (0, "")
    assert history(home) == [("one", 0.7), ("two", 0.7)] and asked(home) == ["one=a", "two=b"]
    time.sleep(0.05)  # the youngest is to be the youngest
    checkpoint(home, ".step-3.partial", 0.9)
    checkpoint(home, "step-2", 0.6)
    status, said = night(home)
    assert status == 1 and len(said.splitlines()) == 1
    assert "one accuracy went from 0.7000" in said and "to 0.6000" in said
    assert history(home) == [("one", 0.7), ("two", 0.7), ("one", 0.6), ("two", 0.6)], "a bad night is history too"
    assert night(home, "--max-drop", "0.2")[0] == 0
    assert night(home)[0] == 1, "as long as it lasts"


def test_a_killed_night_leaves_the_history_whole_and_the_next_ends_it(home):
    (home / "h.jsonl").write_text('{"task":"old","metric":"m","value":1,"model":"x"}\n')
    before = (home / "h.jsonl").read_bytes()
    (home / "hang").touch()
    run = subprocess.Popen(command(home), start_new_session=True, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not (home / "asked").exists() or asked(home) != ["one=a", "two=b"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert "another run is at it" in night(home)[1]
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert (home / "h.jsonl").read_bytes() == before
    (home / "hang").unlink()
    assert night(home) == (0, "")
    assert asked(home) == ["one=a", "two=b", "two=b"], "what was done is not done again"
    assert history(home) == [("old", 1), ("one", 0.7), ("two", 0.7)]


def test_what_goes_wrong_is_one_sentence(home):
    (home / "break").touch()
    status, said = night(home)
    assert status == 1 and said.endswith("one failed: l2 evaluate: it broke\n")
    assert not (home / "h.jsonl").exists()
    for wrong in (["--tsk"], ["--history"]):
        assert night(home, *wrong)[0] == 2
    os.mkfifo(home / "pipe")
    assert night(home, "--history", str(home / "pipe"))[1].endswith(
        "pipe: not a file that can grow; name one for --history\n"
    )
    assert (home / "pipe").is_fifo() and not (home / "pipe.lock").exists(), "nor would /dev/null be replaced"
    (home / "runs").rename(home / "gone")
    assert night(home)[1].endswith("runs: no such directory\n")


def test_runs_may_lie_in_a_hidden_directory(home):
    (home / ".data").mkdir()
    (home / "runs").rename(home / ".data" / "runs")
    assert night(home, "--runs", str(home / ".data" / "runs")) == (0, "")
    assert (home / "h.jsonl").exists()


def test_the_log_is_rotated(home):
    log = home / "h.jsonl.log"
    for age in ("old", "older"):
        (home / "asked").write_text("")
        log.write_text(f"{age}\n" + "x" * 1_000_001)
        assert night(home)[0] == 0
    assert log.stat().st_size < 1000
    assert (home / "h.jsonl.log.1").read_text().startswith("older")
    assert (home / "h.jsonl.log.2").read_text().startswith("old\n")


def test_with_l2_itself(home, tokenizer):
    """The scripted model answers one of two questions."""
    saved(saying(tokenizer, "tea", after=" make"), home / "runs" / "real", tokenizer)
    quiz = home / "quiz.jsonl"
    quiz.write_text('{"prompt": "make", "target": "tea"}\n{"prompt": "make", "target": "bread"}\n')
    (home / "l2").write_text(f'#!/bin/sh\nexec {sys.executable} -m cmds.app "$@"\n')
    options = ("--", "--max-new-tokens", "8", "--device", "cpu")
    assert night(home, *options, tasks=(f"quiz={quiz}",)) == (0, "")
    assert history(home) == [("quiz", 0.5)]
