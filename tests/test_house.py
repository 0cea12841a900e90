"""The house of design.md §1: rooms import only from the rooms above them, and nothing heavy runs at import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ["files", "text", "tokens", "model", "train", "generate", "align", "eval", "report"]


def imported(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_folder_is_a_room():
    assert {p.name for p in (ROOT / "l2").iterdir() if p.is_dir() and p.name != "__pycache__"} <= set(ROOMS)


@pytest.mark.parametrize("path", sorted((ROOT / "l2").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_from_the_rooms_above_them(path):
    parts = path.relative_to(ROOT / "l2").parts
    above = ROOMS if len(parts) == 1 else ROOMS[: ROOMS.index(parts[0]) + 1]
    for name in imported(path):
        assert not name.startswith(("cmds", "tests", "typer", "rich")), f"{path} imports {name}"
        if name.startswith("l2."):
            assert name.split(".")[1] in above, f"{path} imports {name}, from a room below"


def test_the_transformer_is_one_file_of_plain_mathematics():
    path = ROOT / "l2/model/transformer.py"
    assert len(path.read_text().splitlines()) < 300
    ours = {name for name in imported(path) if name.startswith("l2.")}
    assert ours == {"l2.model.config.ModelConfig", "l2.model.cache.KVCache"}


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from cmds.app import main; status = main(['--help']); "
        "assert status == 0; print([m for m in ('torch', 'scipy', 'numpy', 'typer') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.endswith("[]\n")
