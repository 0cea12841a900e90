"""The mutation check fails by itself: on a patch that no longer applies, and on a bug that nobody sees."""

from __future__ import annotations

import signal

from tests.mutants import check


def test_what_is_a_fault(tmp_path, monkeypatch):
    (tmp_path / "one.py").write_text("ONE = 1\n")
    (tmp_path / "copy").mkdir()
    stale = "A bug.\nkills: test_one.py::test_it\n\n--- a/one.py\n+++ b/one.py\n@@ -1 +1 @@\n-ONE = 5\n+ONE = 6\n"
    (tmp_path / "stale.patch").write_text(stale)
    for name, value in (("ROOT", tmp_path), ("HERE", tmp_path), ("SOURCES", ("one.py",))):
        monkeypatch.setattr(check, name, value)
    mutant = check.read(tmp_path / "stale.patch")
    assert mutant == ("stale", "A bug.", ["test_one.py::test_it"])
    assert "the patch no longer applies" in str(check.start(mutant, tmp_path / "copy"))
    (tmp_path / "stale.patch").write_text(stale.replace("-ONE = 5", "-ONE = 1"))
    assert check.start(mutant._replace(tests=[]), tmp_path / "copy") == "it names no test"
    assert (tmp_path / "copy/one.py").read_text() == "ONE = 6\n" and (tmp_path / "one.py").read_text() == "ONE = 1\n"
    assert not check.fault(1) and not check.fault(-signal.SIGALRM)  # a test failed; it hung
    assert "survives" in check.fault(0) and "can't run" in check.fault(4)
