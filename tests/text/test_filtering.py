"""A whole corpus through `l2 filter`: the bytes of one stream, whoever does what part, after any kill."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
import zstandard

from l2.files.jsonl import open_writer, read_records
from l2.files.ledger import Ledger, open_ledger
from l2.text.copies import without_copies
from l2.text.duplicates import SIMILAR, band_keys, jaccard, near_duplicates, normalised, shingles, signature
from l2.text.filtering import Shard, filter_documents, filter_shard
from l2.text.pipeline import FilterSettings, Tally, judged, load_checks, read_documents
from l2.text.workplace import Resources

ROOT = Path(__file__).parents[2]
WORDS = [f"{a}{b}{c}" for a in ("ka", "lo", "mi") for b in ("tu", "se", "ra") for c in ("no", "vi", "da")]
MENU = ["Home and news and more for you today.", "Read on.", "Copyright 2020 by the Example Company of this place."]
SMALL = Resources(part_bytes=20_000)
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
        (dedup, lines): run(files, directory / "out", replace(SETTINGS, dedup=dedup, dedup_lines=lines), Resources())
        for dedup in ("none", "exact", "minhash")
        for lines in (False, True)
    }


def test_it_finds_what_one_stream_in_memory_finds(files, tmp_path):
    settings = replace(SETTINGS, dedup_lines=True)
    near, rules = one_stream(files, settings, tmp_path / "plain")
    run(files, tmp_path / "out", settings)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "plain").read_bytes()
    rows = list(read_records([tmp_path / "out.rejects"]))
    found = {(row["line"], row["id"], *row["value"].values()) for row in rows if row["rule"] == "near_duplicate"}
    assert found == near and len(near) > 20
    assert Counter(row["rule"] for row in rows) == rules + Counter(near_duplicate=len(near))


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("dedup", ["none", "exact", "minhash"])
def test_parts_change_no_byte(files, alone, tmp_path, dedup, lines):
    settings = replace(SETTINGS, dedup=dedup, dedup_lines=lines)
    for size in (3_000, 20_000, 1 << 30):
        assert run(files, tmp_path / "out", settings, Resources(part_bytes=size)) == alone[dedup, lines]


def test_processes_and_shards_change_no_byte(files, alone, tmp_path):
    settings = replace(SETTINGS, dedup_lines=True)
    for jobs in (2, 4):
        assert run(files, tmp_path / "out", settings, replace(SMALL, jobs=jobs)) == alone["minhash", True]
    shared = replace(SMALL, work=str(tmp_path / "work"))
    for checked in (False, True):
        done = [filter_shard(files, settings, shared, Shard(i, 3)) for i in (3, 1, 2)]
        assert [one.checked for one in done] == [False, False, True] if not checked else [True] * 3
        assert sum(one.parts for one in done) == done[0].total > 5
    assert run(files, tmp_path / "out", settings, shared) == alone["minhash", True]
    assert run(files, tmp_path / "out", settings, shared) == alone["minhash", True]  # nothing is left to do
