"""`l2 report` from the command line."""

from __future__ import annotations

import json

from cmds.app import main


def test_page_text_and_usage(tmp_path, capsys):
    rows = [{"task": "t", "metric": "m", "value": 0.5, "model": "a"}, {"task": "t", "metric": "m"}]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path), "-o", str(page), "--text"]) == 0
    out, err = capsys.readouterr()
    assert "RESULTS" in out and "0.500" in out
    assert f"{tmp_path}/r.jsonl:2: found fields" in err
    assert page.read_text().startswith("<!doctype html>") and "r.jsonl:2" in page.read_text()
    assert main(["report", str(tmp_path), "-o", "-", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("<!doctype html>") and err == ""
    for arguments, status in (([], 2), ([str(tmp_path)], 2), ([str(tmp_path / "x"), "--text"], 1)):
        assert main(["report", *arguments]) == status
        assert capsys.readouterr().err.count("\n") == 1
    assert main(["report", str(tmp_path), "--card", str(tmp_path)]) == 2
    assert "no run below" in capsys.readouterr().err
