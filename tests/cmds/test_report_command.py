"""`l2 report` from the command line."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

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


def test_figures_as_files_are_whole_pictures_that_stay_in_their_directory(tmp_path, capsys):
    series = [{"name": "<b> & max", "x": ["a", "b"], "y": [0.1, 0.4], "stderr": [0.01, None]}]
    titles = ["../../Out of N & <here>", "..out.of.N.& <here>", "Äther", "///"]
    rows = [
        {"figure": {"kind": kind, "title": title, "x": "N", "y": "R", "series": series}}
        for title, kind in zip(titles, ["lines", "bars", "lines", "bars"], strict=True)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert main(["report", str(tmp_path / "rows.jsonl"), "--figures", str(tmp_path / "a" / "b"), "--quiet"]) == 0
    pictures = {path.name: ElementTree.parse(path).getroot() for path in (tmp_path / "a" / "b").iterdir()}
    assert pictures.keys() == {"out-of-n-here.svg", "out-of-n-here-2.svg", "äther.svg", "figure.svg"}
    svg = "{http://www.w3.org/2000/svg}"
    for root in pictures.values():
        assert root.tag == f"{svg}svg"
        assert root.find(f"{svg}title").text in titles
        assert "prefers-color-scheme: dark" in root.find(f"{svg}style").text
        drawn = {name for shape in root.iter() for name in shape.get("class", "").split()}
        styled = set(re.findall(r"\.(\w+)", root.find(f"{svg}style").text))
        assert drawn & {"line", "bar"} <= styled
        assert root.find(f".//{svg}circle[@class='dot s0']") is not None or root.find(f".//{svg}rect") is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "rows.jsonl"]
