"""Completion as the shells themselves ask for it: names, flags and choices, without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cmds.app import COMMANDS
from cmds.completion import in_short

ROOT = Path(__file__).parent.parent.parent

# What comes before and the word at the cursor, and some of what may come.
ASKED = [
    ("", "", ["filter", "convert"]),
    ("", "pret", ["pretrain"]),
    ("pretrain --shards a b", "--s", ["--shards", "--steps", "--seq-len"]),
    ("filter --pii", "", ["drop", "keep", "replace"]),
    ("filter --lang en --pii", "r", ["replace"]),
    ("rs-sample", "--po", ["--pool"]),
]


@pytest.fixture
def home(tmp_path):
    """Where `l2` is a command, in a home of its own."""
    command = tmp_path / "bin" / "l2"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m cmds.app "$@"\n')
    command.chmod(0o755)
    return tmp_path


def shell(home: Path, *command: str, **more: str) -> str:
    env = {"PATH": f"{home}/bin:/usr/bin:/bin", "HOME": str(home), "PYTHONPATH": str(ROOT), **more}
    return subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, check=True).stdout


def test_bash(home):
    """The script that l2 shows, sourced, and its function called as bash does, once for all."""
    lines = ["source <(l2 --show-completion bash)"]
    for before, word, _ in ASKED:
        words = ["l2", *before.split(), word]
        quoted = " ".join(f"'{w}'" for w in words)
        lines += [f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _l2_completion l2; echo ${{COMPREPLY[*]}}"]
    answers = shell(home, "bash", "-c", "\n".join(lines)).splitlines()
    for (before, word, some), answer in zip(ASKED, answers, strict=True):
        found = answer.split()
        assert set(some) <= set(found) and all(each.startswith(word) for each in found), (before, word, answer)
    assert answers[0].split() == list(COMMANDS) and answers[1] == "pretrain"


def test_fish(home):
    if not shutil.which("fish"):
        pytest.skip("no fish")
    asked = "; echo; ".join(f"complete -C 'l2 {' '.join([before, word]).strip()}'" for before, word, _ in ASKED[1:3])
    told = shell(home, "fish", "-c", f"l2 --show-completion fish | source; {asked}; test -d bin")
    assert f"pretrain\t{COMMANDS['pretrain'][1]}" in told and "--steps\tOptimizer steps" in told


def test_zsh(home):
    """What zsh evaluates: each option in quotation marks, with one line of help."""
    told = shell(home, "l2", _L2_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="l2 pretrain --mi")
    assert told.splitlines() == [
        '_arguments \'*: :(("--mix":"Epochs of each source in one pass"',
        '"--micro-batch":"Windows at once"))\'',
    ]


def test_installs_for_the_shell_in_use(home):
    """typer finds bash among the parents, and tells where it has put the script."""
    told = shell(home, "bash", "-c", "l2 --install-completion; true")
    script = home / ".bash_completions/l2.sh"
    assert "bash completion installed" in told and "_l2_completion" in script.read_text()
    assert str(script) in (home / ".bashrc").read_text()


def test_neither_torch_nor_all_commands_are_imported():
    code = (
        "import sys; from cmds.app import main\n"
        "try: main([])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'cmds.filter') if m in sys.modules])"
    )
    env = os.environ | {"_L2_COMPLETE": "complete_bash", "COMP_WORDS": "l2 sft --d", "COMP_CWORD": "2"}
    out = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True).stdout
    assert out.splitlines() == ["--data", "--device", "--dtype", "[]"]


def test_help_is_cut_at_the_first_mark():
    assert in_short("Epochs of each source in one pass: 'wiki*=2'") == "Epochs of each source in one pass"
    assert in_short("λ of the safety loss (the paper gives none)") == "λ of the safety loss" and in_short("") == ""
