"""A whole corpus through `l2 filter`: the bytes of one stream, whoever does what part, after any kill."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l2.files.errors import BadInput, L2Error, UsageError
from l2.files.jsonl import open_writer, read_records
from l2.files.ledger import Ledger, open_ledger
from l2.text import copies, workplace
from l2.text.copies import without_copies
from l2.text.duplicates import SIMILAR, band_keys, jaccard, normalised, shingles, signature
from l2.text.filtering import Shard, filter_documents, filter_shard
from l2.text.pipeline import FilterSettings, Tally, judged, load_checks, read_documents
from l2.text.workplace import Resources, open_work
from tests.text.in_memory import near_duplicates

ROOT = Path(__file__).parents[2]
WORDS = [f"{a}{b}{c}" for a in ("ka", "lo", "mi") for b in ("tu", "se", "ra") for c in ("no", "vi", "da")]
MENU = ["Home and news and more for you today.", "Read on.", "Copyright 2020 by the Example Company of this place."]
SMALL = Resources(part_bytes=20_000)
LINES = ((), ("dedup",))  # without, with
SETTINGS = FilterSettings(quality=("gopher",), skip_bad=True)


def corpus(seed: int, count: int = 300) -> bytes:
    """JSONL with copies, near copies, near copies of those, repeated lines, bad lines, and no id here and there."""
    rng = random.Random(seed)
    texts: list[str] = []
    lines = []
    for i in range(count):
        chance = rng.random()
        if chance < 0.15 and texts:
            text = rng.choice(texts).upper()
        elif chance < 0.4 and texts:
            words = rng.choice(texts).split(" ")
            for _ in range(rng.randrange(1, 4)):
                words[rng.randrange(len(words))] = rng.choice(WORDS)
            text = " ".join(words)
        elif chance < 0.5:
            text = "too short"
        else:
            text = "The " + " ".join(rng.choice(WORDS) + ("" if j % 12 else " and the.") for j in range(90))
        texts.append(text)
        document = {"text": "\n".join([rng.choice(MENU), text, rng.choice(MENU)]), "n": i}
        document |= {"id": f"d{i}"} if rng.random() < 0.7 else {}
        document |= {"source": rng.choice(["web", "wiki"])} if rng.random() < 0.7 else {}
        lines.append(json.dumps(document))
        if rng.random() < 0.1:
            lines.append(rng.choice(["", "torn {", "[1]", '{"id": 3}', '{"text": "\x00"}', '{"text": "a", "id": [1]}']))
    return "\n".join(lines).encode()


def one_stream(paths, settings, out):
    """The same by the plainest means: one process, everything in memory, every document asked in turn."""
    ledger = Ledger()
    documents = read_documents(read_records(paths, on_bad=ledger.bad_line), ledger.bad_line)
    passed = list(without_copies(judged(documents, load_checks(settings, ledger, Tally()), ledger), ledger))
    sets = [shingles(normalised(document["text"])) for document in passed]
    keys = np.stack([band_keys(signature(s)) for s in sets])
    dropped = near_duplicates(keys, sets.__getitem__)
    for number, (of, likeness) in dropped.items():
        assert likeness == jaccard(sets[number], sets[of]) >= SIMILAR
    out.write_bytes(b"".join(orjson.dumps(d) + b"\n" for i, d in enumerate(passed) if i not in dropped))
    near = {(passed[i].line, passed[i]["id"], passed[of]["id"], likeness) for i, (of, likeness) in dropped.items()}
    return near, ledger.counts + ledger.lines


def run(paths, out: Path, settings=SETTINGS, resources=SMALL) -> bytes:
    """Output, ledger and report of `paths`, one after the other; in = kept + rejected everywhere."""
    with open_writer(out) as writer, open_ledger(f"{out}.rejects") as ledger:
        report = filter_documents(paths, writer, ledger, settings, resources)
    kept, rows = out.read_bytes(), Path(f"{out}.rejects").read_bytes()
    records = [row for row in map(json.loads, rows.splitlines()) if "text_line" not in row]
    assert report["in"] == report["kept"] + report["rejected"] == kept.count(b"\n") + len(records)
    assert report["in"] == sum(of["in"] for of in report["sources"].values())
    assert report["rules"] == sum((Counter(of["rules"]) for of in report["sources"].values()), Counter())
    assert all(of["in"] == of["kept"] + of["rejected"] for of in report["sources"].values())
    Path(f"{out}.json").write_bytes(orjson.dumps(report))
    return kept + rows + orjson.dumps(report)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """A plain file of several parts, one of .zst frames whose lines run on from frame to frame, a .gz, an empty one."""
    directory = tmp_path_factory.mktemp("corpus")
    plain, frames, gz, empty = (directory / name for name in ("a.jsonl", "b.jsonl.zst", "c.jsonl.gz", "d.jsonl"))
    plain.write_bytes(corpus(1))
    data = corpus(2, 100) + b"\n"
    frames.write_bytes(b"".join(zstandard.compress(data[at : at + 7001]) for at in range(0, len(data), 7001)))
    with open_writer(gz) as writer:
        for record in read_records([plain], on_bad=lambda error: None):
            if record.get("n", 0) % 7 == 0:
                writer.write(record)
    empty.touch()
    return [plain, frames, gz, empty]


@pytest.fixture(scope="module")
def alone(files, tmp_path_factory) -> dict[tuple[str, bool], bytes]:
    """What one process writes without cutting anything, for each dedup, with and without repeated lines."""
    directory = tmp_path_factory.mktemp("alone")
    return {
        (dedup, lines): run(files, directory / "out", replace(SETTINGS, dedup=dedup, lines=LINES[lines]), Resources())
        for dedup in ("none", "exact", "minhash")
        for lines in (False, True)
    }


def test_it_finds_what_one_stream_in_memory_finds(files, tmp_path):
    settings = replace(SETTINGS, lines=("dedup",))
    near, rules = one_stream(files, settings, tmp_path / "plain")
    run(files, tmp_path / "out", settings)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "plain").read_bytes()
    rows = list(read_records([tmp_path / "out.rejects"]))
    found = {(row["line"], row["id"], *row["value"].values()) for row in rows if row["rule"] == "near_duplicate"}
    assert found == near and len(near) > 20
    assert Counter(row["rule"] for row in rows) == rules + Counter(near_duplicate=len(near))


@pytest.mark.parametrize(
    ("dedup", "lines", "sizes"),
    [
        ("none", False, [20_000]),
        ("none", True, [9_000]),
        ("exact", False, [1 << 30]),
        ("exact", True, [20_000]),
        ("minhash", False, [1 << 30]),
        ("minhash", True, [7_001, 20_000]),
    ],
)
def test_parts_change_no_byte(files, alone, tmp_path, dedup, lines, sizes):
    settings = replace(SETTINGS, dedup=dedup, lines=LINES[lines])
    for size in sizes:
        assert run(files, tmp_path / "out", settings, Resources(part_bytes=size)) == alone[dedup, lines]


def test_ranges_of_keys_and_tasks_of_components_change_no_byte(files, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(workplace, "KEY_BYTES", 50_000_000)
    monkeypatch.setattr(copies, "TASK_PAIRS", 40)
    work = tmp_path / "work"
    few = replace(SMALL, work=str(work), memory=4)
    assert run(files, tmp_path / "out", replace(SETTINGS, lines=("dedup",)), few) == alone["minhash", True]
    assert len(list(work.glob("copies/band-0-*"))) > 3 < len(list(work.glob("lines/seen-*")))
    assert len(list(work.glob("copies/near-*"))) > 3


def test_processes_and_shards_change_no_byte(files, alone, tmp_path):
    settings = replace(SETTINGS, lines=("dedup",))
    for jobs in (2, 3):
        assert run(files, tmp_path / "out", settings, replace(SMALL, jobs=jobs)) == alone["minhash", True]
    shared = replace(SMALL, work=str(tmp_path / "work"))
    for checked in (False, True):
        done = [filter_shard(files, settings, shared, Shard(i, 3)) for i in (3, 1, 2)]
        assert [one.checked for one in done] == [False, False, True] if not checked else [True] * 3
        assert sum(one.parts for one in done) == done[0].total > 5
    assert run(files, tmp_path / "out", settings, shared) == alone["minhash", True]
    assert run(files, tmp_path / "out", settings, shared) == alone["minhash", True]  # nothing is left to do


STAGES = [
    "sizes/*",
    "lines/000001",
    "lines/seen-*",
    "parts/000002",
    "copies/exact.npy",
    "copies/band-7-*",
    "copies/near*",
]


def test_killed_in_every_stage_it_goes_on_to_the_same_bytes(files, alone, tmp_path):
    work, out = tmp_path / "work", tmp_path / "out"
    code = f"""
from tests.text.test_filtering import *
where = replace(SMALL, work={str(work)!r})
run({list(map(str, files))!r}, Path({str(out)!r}), replace(SETTINGS, lines=("dedup",)), where)
"""
    finished: dict[Path, int] = {}
    for stage in STAGES:
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
        while process.poll() is None and not any(work.glob(stage)):
            time.sleep(0.002)
        process.kill()
        process.wait()
        assert any(work.glob(stage))
        assert all(path.stat().st_ino == inode for path, inode in finished.items())  # nothing is done twice
        finished = {path: path.stat().st_ino for path in work.glob("*/[!.]*")}
    settings = replace(SETTINGS, lines=("dedup",))
    assert run(files, out, settings, replace(SMALL, work=str(work))) == alone["minhash", True]
    assert not [path for path in work.rglob(".*") if path.name != ".lock"]  # what was half written is gone


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("jobs", [1, 2])
def test_the_earliest_bad_line_stops_it_whoever_finds_it(files, tmp_path, jobs, lines):
    path = tmp_path / "docs.jsonl"
    good = [line for line in corpus(3).splitlines() if line.startswith(b'{"text": "') and b"\\u0000" not in line]
    good = [line for line in good if b'"n"' in line]
    good[250:250] = [b"torn {"]
    good[120:120] = [b'{"text": "deep", "x": ' + b"[" * 300 + b"]" * 300 + b"}"]
    path.write_bytes(b"\n".join(good))
    settings = replace(SETTINGS, skip_bad=False, lines=LINES[lines])
    with pytest.raises(BadInput, match=r"docs\.jsonl:121: found no valid JSON"):
        run([path], tmp_path / "out", settings, replace(SMALL, jobs=jobs))
    assert not (tmp_path / "out").exists()


HOSTILE = [
    b"torn {", b"\xff\xfe", b"\x00", b"[" * 3000, b'{"text": "a", "x": ' + b"[" * 254 + b"]" * 254 + b"}", b"null",
    b'{"text": "x"}', b'{"text": "x", "id": "1"}', b'{"text": "X!", "id": "1"}', b'{"text": ""}', b'{"text": 1}',
    b'{"text": "\\ud800"}', b'{"text": "\\u0000 \\u2028 \xc2\x85 b"}', b'{"text": "x", "id": [[]]}',
    b'{"text": "y", "id": 1e999}',
    b'{"text": "x", "source": {"a": []}}', b'{"text": "a b", "source": ' + b"[" * 253 + b"]" * 253 + b"}", b"{}",
    b'{"text": "x", "scores": []}', b'{"text": "z", "id": 123456789012345678901234567890}', b" \t", b"\r", b"",
    b'{"text": "' + b"long " * 500 + b'"}', b'{"text": "\xf0\x9f\x98\x80", "text": "twice", "url": "http://[::1"}',
]  # fmt: skip


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.sampled_from(HOSTILE), st.binary(max_size=30)), min_size=1, max_size=25), st.booleans())
def test_hostile_lines_lose_no_row(tmp_path, lines, ended):
    path = tmp_path / "docs.jsonl"
    data = b"\n".join(lines) + b"\n" * ended
    path.write_bytes(data)
    total = sum(bool(line.strip()) for line in data.split(b"\n"))
    asked = FilterSettings(
        lines=("c4", "dedup"), quality=("gopher", "c4"), pii="replace", where=('id != "2"',), skip_bad=True
    )
    if not total:
        with pytest.raises(BadInput, match="no records"):
            run([path], tmp_path / "out", asked)
        return
    scores = FilterSettings(score_only=True, dedup="none", skip_bad=True)
    for few in (replace(asked, quality=(), where=(), lines=("dedup",)), scores):
        found = run([path], tmp_path / "out", few, Resources(part_bytes=400))
        assert orjson.loads((tmp_path / "out.json").read_bytes())["in"] == total
        assert found == run([path], tmp_path / "out", few, Resources())


def template(i: int, source: str) -> dict:
    """One of many pages that say nearly the same."""
    words = [*(WORDS * 4), f"{source}{i}"]
    return {"id": f"{source}{i}", "text": " ".join(words), "source": source}


def test_a_cluster_that_would_swallow_a_source_is_held_back(tmp_path):
    """100 and more like one another, and more than half of their source: they stay; elsewhere they go."""
    rng = random.Random(0)
    other = [
        {"id": f"{source}-{i}", "text": " ".join(rng.choices(WORDS, k=80)), "source": source}
        for source, count in (("licences", 119), ("web", 150), ("few", 5))
        for i in range(count)
    ]
    pages = [template(i, "licences") for i in range(120)] + [template(i, "web") for i in range(120)]
    pages += [template(i, "few") for i in range(90)]
    rng.shuffle(pages)
    (tmp_path / "docs.jsonl").write_bytes(b"".join(orjson.dumps(d) + b"\n" for d in [*pages, *other]))
    run([tmp_path / "docs.jsonl"], tmp_path / "out", FilterSettings(quality=()))
    kept = Counter(d["source"] for d in read_records([tmp_path / "out"]))
    first = pages[0]["source"]
    report = orjson.loads((tmp_path / "out.json").read_bytes())
    held = {"of": pages[0]["id"], "source": "licences", "documents": 120 - (first == "licences"), "share": 120 / 239}
    assert report["held_back"] == [held]
    assert kept == {"licences": 239, "web": 150 + (first == "web"), "few": 5 + (first == "few")}


def test_a_work_directory_serves_one_run(files, tmp_path):
    work = replace(SMALL, work=str(tmp_path / "work"))
    run(files, tmp_path / "out", SETTINGS, work)
    with pytest.raises(UsageError, match=r"holds another run \(dedup: minhash there, exact asked\)"):
        run(files, tmp_path / "out", replace(SETTINGS, dedup="exact"), work)
    with pytest.raises(UsageError, match=r"inputs: .*; choose another --work"):
        run(files[:1], tmp_path / "out", SETTINGS, work)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").touch()
    with pytest.raises(UsageError, match="no run of l2 filter made it"):
        run(files, tmp_path / "out", SETTINGS, replace(SMALL, work=str(tmp_path / "mine")))
    with pytest.raises(UsageError, match=r"GB is not enough: 0 documents with --jobs 2 need 0\.\d+ GB"):
        run(files, tmp_path / "out", SETTINGS, replace(SMALL, jobs=2, memory=0.2))
    with pytest.raises(UsageError, match="--work directory that all shards see"):
        filter_shard(files, SETTINGS, SMALL, Shard(1, 2))
    with pytest.raises(UsageError, match="no shard 3 of 2"):
        filter_shard(files, SETTINGS, work, Shard(3, 2))
    with pytest.raises(UsageError, match="can't be read again"):
        filter_shard(["/dev/null"], SETTINGS, work, Shard(1, 2))
    with open_work(list(map(str, files)), SETTINGS, work, shared=True):
        filter_shard(files, SETTINGS, work, Shard(1, 2))
        with pytest.raises(L2Error, match="another process is writing here"):
            run(files, tmp_path / "out", SETTINGS, work)


def test_ray_changes_no_byte(files, alone, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install ray")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    try:
        on_ray = replace(SMALL, jobs=2, engine="ray")
        assert run(files, tmp_path / "out", SETTINGS, on_ray) == alone["minhash", False]
        with pytest.raises(BadInput, match=r"a\.jsonl:\d+: found"):
            run(files, tmp_path / "out", replace(SETTINGS, skip_bad=False), on_ray)
    finally:
        ray.shutdown()
