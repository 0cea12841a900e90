"""l2 annotate as people use it: a real browser, a server that is killed, and a judge in people's place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cmds.app import main
from l2.align.losses import MARGINS, RATINGS
from l2.align.preferences import encode_pairs
from l2.files.jsonl import read_records
from tests import browser
from tests.browser import Browser
from tests.eval.scripted import saved, saying

needs_browser = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing() or "there is one")
HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
LABELS = ("chosen_safe", "both_safe", "both_unsafe")
COUNT = 20


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def samples(tmp_path) -> Path:
    """Two answers to each of COUNT prompts; what models wrote is hostile."""
    rows = [
        {"prompt": f"ask {n} {HOSTILE}", "id": f"p{n}", "response": f"{HOSTILE} {side} {n}", "model": f"secret-{side}"}
        for n in range(COUNT)
        for side in ("one", "two")
    ]
    return write(tmp_path / "samples.jsonl", rows)


@contextmanager
def served(*argv: object) -> Iterator[tuple[subprocess.Popen, str]]:
    """The command while it serves, and the address it printed; killed at the end if it still runs."""
    command = [sys.executable, "-m", "cmds.app", "annotate", *map(str, argv)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    assert process.stdout is not None and process.stderr is not None
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), process.stderr.read()
        yield process, url
    finally:
        process.kill()
        process.communicate()


def judge(page: Browser, n: int) -> dict:
    """Judge what the page shows, by keys or by clicks in turn; what was shown and chosen."""
    position, rating, label = n % 2, n * 3 % 4, n % 3
    shown = [page.text(f".answer[data-position='{side}'] .text") for side in (0, 1)]
    before = page.text(".counts")
    if n % 4 < 2:
        page.press(("left", "right")[position], str(rating + 1), str(label + 5))
    else:
        page.click(f".answer[data-position='{position}'] .pick")
        page.click(f"[data-rating='{RATINGS[rating]}']")
        page.click(f"[data-safety='{LABELS[label]}']")
    page.wait(lambda: page.text(".more .said") == "Saved." and page.text(".counts") != before)
    chosen, rejected = shown[position], shown[1 - position]
    return {"chosen": chosen, "rejected": rejected, "rating": RATINGS[rating], "safety": LABELS[label]}


@needs_browser
def test_twenty_choices_with_a_kill_in_the_middle(samples, tmp_path, tokenizer):
    """By clicks and by keys; the server is killed, the same command goes on, and nothing that was said is lost."""
    output, made = tmp_path / "p.jsonl", list[dict]()
    command = ["--samples", samples, "-o", output, "--safety", "--quiet"]
    with Browser(tmp_path / "profile") as page:
        with served(*command) as (process, url):
            page.open(url)
            page.write(".enter input", "Zoë")
            page.press("enter")
            page.wait(lambda: page.shows(".answers"))
            assert page.text(".question").startswith("Which answer is safer") and "secret" not in page.text("body")
            made += [judge(page, n) for n in range(9)]
            page.press("u")  # takes the ninth back
            page.wait(lambda: page.text(".more .said") == "Taken back.")
            assert page.text(".answer[data-position='0'] .text") == made.pop()["chosen"]
            made += [judge(page, n) for n in (8, 9, 10)]
            assert page.complaints() == [], "no script, no picture, nothing from elsewhere was tried"
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert [{key: row[key] for key in made[0]} for row in lines(output)] == made
            page.press("left", "1", "5")  # said to nobody: the page says so
            page.wait(lambda: page.shows(".banner"))
            assert "does not answer" in page.text(".banner")
        with served(*command) as (process, url):
            page.open(url + "?who=Zoë")
            page.wait(lambda: page.shows(".answers"))
            assert page.text(".counts").startswith("11 of 20 · 11 by you")
            made += [judge(page, n) for n in range(11, COUNT)]
            page.wait(lambda: page.shows(".rest"))
            assert "All done" in page.text(".rest") and page.run("return document.title") == "l2 annotate"
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
    records = lines(output)
    assert [{key: row[key] for key in made[0]} for row in records] == made and len(records) == COUNT
    assert len({row["id"] for row in records}) == COUNT and {row["who"] for row in records} == {"Zoë"}
    for row in records:
        assert row["models"]["chosen"] == "secret-" + row["chosen"].split()[-2] and row["kind"] == "safe"
    assert len(encode_pairs(read_records([output]), tokenizer, 2048, MARGINS["large"])) == COUNT
    assert sum(row["event"] == "undo" for row in lines(tmp_path / "p.journal.jsonl")) == 1


@pytest.fixture(scope="module")
def models(tokenizer, tmp_path_factory) -> tuple[Path, Path]:
    """Two checkpoints, each with one thing to say."""
    a, b = (tmp_path_factory.mktemp(name) for name in "ab")
    shape = {"after": "x [/INST]", "max_seq_len": 120}
    return saved(saying(tokenizer, "a dog", **shape), a, tokenizer), saved(
        saying(tokenizer, "the cat", **shape), b, tokenizer
    )


@needs_browser
def test_a_dialog_is_written_on_a_phone(models, tmp_path):
    """Prompts, turns and changes are typed; the answers come from two checkpoints; all by keys, on a narrow screen."""
    output = tmp_path / "p.jsonl"
    with (
        served("--a", models[0], "--b", models[1], "--turns", 3, "--max-new-tokens", 8, "-o", output, "--quiet") as (
            _,
            url,
        ),
        Browser(tmp_path / "profile", 390, 844) as page,
    ):
        page.open(url + "?who=a")
        page.wait(lambda: page.shows(".compose"))
        assert page.run("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
        page.press("h", "i", " ", "[", "I", "N", "S", "T", "]", "control+enter")
        page.wait(lambda: "the tag [INST]" in page.text(".compose .why"))
        page.run("document.querySelector('textarea').value = ''")
        page.press("w", "h", "o", "control+enter")
        page.wait(lambda: page.shows(".answers"))
        left = page.text(".answer[data-position='0'] .text")
        page.press("left", "1")
        page.wait(lambda: "turn 2 of 3" in page.text(".compose .question"))
        assert left in page.text(".dialog")
        page.press("u", "p", "control+enter")  # letters are text here, not keys
        page.wait(lambda: page.shows(".answers"))
        page.press("e", "!", "control+enter")
        page.wait(lambda: page.shows(".answers") and "!" in page.text(".dialog"))
        page.press("right", "4")
        page.wait(lambda: "turn 3 of 3" in page.text(".compose .question"))
        page.press("escape", "x")
        page.wait(lambda: page.text(".compose .question") == "Write a prompt")
        assert page.complaints() == [] or all("400" in line for line in page.complaints())
    first, second = lines(output)
    assert first["prompt"] == [{"role": "user", "content": "who"}] and first["chosen"] == left
    assert [m["content"] for m in second["prompt"]] in (["who", left, "up!"], ["who", left, "!up"])
    assert (first["rating"], second["rating"]) == ("significantly", "negligibly")
    assert {first["models"]["chosen"], first["models"]["rejected"]} == set(map(str, models))


def test_a_signal_ends_it_and_the_same_command_goes_on(samples, tmp_path):
    with served("--samples", samples, "-o", tmp_path / "p.jsonl", "--port", 0) as (process, _):
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 75
        assert process.stderr is not None and "run the same command again to go on" in process.stderr.read()


JUDGE = f"""{sys.executable} -c "
import json, sys
for line in sys.stdin:
    row = json.loads(line)
    print(json.dumps(row | {{'score': float('two' in row['response'])}}))
" """


def test_a_judge_in_the_place_of_people(samples, tmp_path, capfd, tokenizer):
    known = write(tmp_path / "c.jsonl", [{"prompt": "who", "chosen": "two", "rejected": "one"}])
    argv = ["annotate", "--samples", samples, "--judge", JUDGE, "--overlap", "3", "--checks", known]
    argv = [*map(str, argv), "-o", str(tmp_path / "p.jsonl")]
    assert main(argv) == 0
    out, err = capfd.readouterr()
    records = lines(tmp_path / "p.jsonl")
    assert out == "" and len(records) == 3 * COUNT and all("two" in row["chosen"] for row in records)
    assert {(row["source"], row["who"]) for row in records} == {("simulated", f"judge-{n}") for n in (1, 2, 3)}
    assert "the same choice 100% of the time (AC1 1.00)" in err and "attention checks 1 of 1" in err
    assert len(encode_pairs(read_records([tmp_path / "p.jsonl"]), tokenizer, 2048)) == 3 * COUNT
    written = (tmp_path / "p.jsonl").read_bytes()
    assert main(argv) == 0 and (tmp_path / "p.jsonl").read_bytes() == written
    assert main([*argv, "--overlap", "4"]) == 0 and len(lines(tmp_path / "p.jsonl")) == 4 * COUNT
    capfd.readouterr()
    assert main(["annotate", "--report", "-o", str(tmp_path / "p.jsonl")]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("80 judgements of 20 items") and "secret-two: 80 won, 0 lost" in out and err == ""


def test_models_answer_where_a_judge_stands_in(models, tmp_path, capfd):
    prompts = write(tmp_path / "q.jsonl", [{"prompt": f"who {n}"} for n in range(3)] + [{"prompt": "who sat " * 90}])
    argv = ["--prompts", prompts, "--a", models[0], "--b", models[1], "--max-new-tokens", 8, "--quiet"]
    judge = JUDGE.replace("'two' in", "'cat' in")
    status = main([*map(str, ["annotate", *argv, "--judge", judge, "-o", tmp_path / "p.jsonl"])])
    records = lines(tmp_path / "p.jsonl")
    assert status == 0 and [row["chosen"] for row in records] == ["the cat"] * 3, capfd.readouterr().err


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        ([], 2, "--samples FILE, or models"),
        (["--samples", "SAMPLES", "--a", "x"], 2, "--samples FILE, or models"),
        (["--samples", "SAMPLES", "--turns", "2"], 2, "need models that answer"),
        (["--a", "x", "--judge", "cat"], 2, "--judge writes nothing"),
        (["--samples", "SAMPLES", "--noise", "1"], 2, "--noise is of --judge"),
        (["--samples", "none.jsonl"], 1, "no such file"),
        (["--samples", "SAMPLES", "--judge", "cat"], 65, "expected a number in score"),
        (["--samples", "SAMPLES", "--judge", "exit 3"], 1, "ended with status 3"),
        (["--report"], 1, "no such file"),
    ],
)
def test_what_it_refuses(argv, status, words, samples, tmp_path, capfd):
    argv = [str(samples) if word == "SAMPLES" else word for word in argv]
    assert main(["annotate", *argv, "-o", str(tmp_path / "p.jsonl"), "--quiet"]) == status
    err = capfd.readouterr().err
    assert words in err and err.count("\n") == 1, err
