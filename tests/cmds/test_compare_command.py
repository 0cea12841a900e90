"""l2 compare as a command: each judge, results, bad calls; a server that judges, with a known taste for the first."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from l2.generate import endpoint
from tests.generate.test_endpoint import Stub, _Handler


class Judge(_Handler):
    """Chat completions of the endpoint tests' stub: `server.say` makes the verdict of the text that was sent."""

    def do_POST(self) -> None:
        assert self.path == "/v1/chat/completions"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        status, said = self.server.say(body["messages"][0]["content"])
        self._send(status, {"choices": [{"message": {"content": said}}]} if status == 200 else said)


@pytest.fixture
def server(model_dir, monkeypatch) -> Iterator[Any]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(endpoint, "PAUSES", (0.0,))
    stub: Any = Stub(model_dir)
    stub.RequestHandlerClass = Judge
    threading.Thread(target=stub.serve_forever, args=(0.01,), daemon=True).start()
    yield stub
    stub.shutdown()
    stub.server_close()


def write(path: Path, *records: dict) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def both(tmp_path) -> list[Any]:
    """--a and --b; the answers of `a` are as good, better, worse and of no interest."""
    samples = [
        [
            {"id": i, "prompt": "who", "response": response, "model": model, "category": "odd" if i % 2 else "even"}
            for i, response in enumerate(responses)
        ]
        for model, responses in (("v2", ["fine", "good", "bad", "dull"]), ("v1", ["fine", "bad", "good", "dull"]))
    ]
    return ["--a", write(tmp_path / "a.jsonl", *samples[0]), "--b", write(tmp_path / "b.jsonl", *samples[1])]


def of(out: str) -> dict[str, float]:
    return {each["metric"]: each["value"] for each in map(json.loads, out.splitlines())}


def test_a_server_judges_both_orders(l2, server, both, tmp_path):
    """It sees the better answer, takes the first of equals, and is lost for words about the dull ones."""

    def say(text: str) -> tuple[int, str]:
        first, second = (text.partition(f"<answer {x}>\n")[2].partition("\n</answer")[0] for x in "AB")
        if first == "dull":
            return 200, "Hm."
        return 200, "Reasons. [[B]]" if (first, second) == ("bad", "good") else "[[A]]"

    server.say = say
    kept = tmp_path / "items.jsonl"
    status, out, err = l2("compare", *both, "--endpoint", server.url, "--samples", kept, "--append", tmp_path / "all")
    found = of(out)
    assert status == 0 and (found["win"], found["tie"], found["loss"]) == (0.25, 0.5, 0.25)
    assert (found["consistent"], found["unread"], found["first_wins"]) == (0.5, 0.25, 4 / 6)
    assert (found["win/category=odd"], found["loss/category=even"]) == (0.5, 0.5)
    assert [json.loads(line)["verdicts"] for line in kept.read_text().splitlines()] == [
        ["a", "b"], ["a", "a"], ["b", "b"], [None, None],
    ]  # fmt: skip
    assert f"answers: v2 (a) against v1 (b); {server.url}#tiny, both orders\n" in err and "category=odd" in err
    assert (tmp_path / "all").read_text() == out
    assert len(server.asked) == 8 and {body["temperature"] for body in server.asked} == {0.0}


def test_servers_that_fail(l2, server, both):
    server.say = lambda text: (400, {"error": {"message": "no room"}})
    status, out, err = l2("compare", *both, "--endpoint", server.url, "--quiet")
    assert (status, out) == (1, "") and err.endswith("status 400: no room\n") and err.count("\n") == 1
    server.say = lambda text: (200, "[A] I think")
    status, out, err = l2("compare", *both, "--endpoint", server.url, "--quiet")
    assert (status, out) == (1, "") and "none of its 8 replies has a verdict" in err
    status, _, err = l2("compare", *both, "--endpoint", f"{server.url}#other")
    assert status == 2 and "with one of tiny" in err


def test_reward_models_and_commands(l2, both, rm_dir):
    status, out, err = l2("compare", *both, "--rm", rm_dir)
    assert status == 0 and of(out)["tie"] == 0.5 and f"reward={rm_dir}, ties within 0" in err
    assert of(l2("compare", *both, "--rm", rm_dir, "--tie-margin", 99)[1])["tie"] == 1.0
    assert of(l2("compare", *both, "--rm", f"helpful={rm_dir}", "--rm", f"safe={rm_dir}")[1]) == of(out)
    judge = 'sed \'s/.*/{"winner": "b"}/\''
    assert of(l2("compare", *both, "--judge", judge)[1])["first_wins"] == 0.0


def test_people(l2, both, tmp_path):
    rows = [
        {"id": i, "rater": r, "preference": p}
        for i, ps in enumerate(((4, 4), (1, 2), (7, 5)))
        for r, p in enumerate(ps)
    ]
    ratings = write(tmp_path / "people.jsonl", *rows)
    status, out, err = l2("compare", ratings, *both)
    assert status == 0 and of(out)["win"] == pytest.approx(1 / 3) and of(out)["tie"] == pytest.approx(1 / 3)
    assert {json.loads(line)["baseline"] for line in out.splitlines()} == {"v1"} and "ac2" in err
    sessions = write(tmp_path / "red.jsonl", {"person": "x", "hours": 2, "violating": 3, "model": "v2"})
    status, out, err = l2("compare", sessions)
    assert (status, of(out)) == (0, {"gamma": 1.5}) and "red-team: v2; sessions" in err


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (["--rm", "x", "--judge", "y"], 2, "give one kind of judge"),
        (["people.jsonl", "--tie-margin", "1"], 2, "--tie-margin is of --rm"),
        (["--judge", "cat", "people.jsonl"], 2, "and no ratings"),
        (["--judge", "cat"], 65, "--judge cat:1: found"),
        (["--judge", "exit 4"], 1, "exit status 4"),
        (["--rm", "a=x", "--rm", "b=y"], 2, "helpful=DIR"),
        (["{tmp}/torn", "-o", "{tmp}/torn"], 2, "is an input too"),
        (["{tmp}/torn", "-o", "{tmp}/x", "--samples", "{tmp}/x"], 2, "--output and --samples are both"),
        (["{tmp}/torn"], 65, "torn:2: found no valid JSON"),
        (["{tmp}/a.jsonl"], 65, "a.jsonl:1: found fields"),
    ],
)
def test_bad_calls_are_one_sentence(l2, both, tmp_path, argv, status, words):
    (tmp_path / "torn").write_text('{"id": 1, "rater": 1, "preference": 3}\n{"id"')
    got, out, err = l2("compare", *both, "--quiet", *(word.replace("{tmp}", str(tmp_path)) for word in argv))
    assert (got, out, err.count("\n")) == (status, "", 1) and words in err


def test_one_side_alone(l2, both):
    status, _, err = l2("compare", *both[:2], "--judge", "cat")
    assert status == 2 and "--a and --b" in err
    assert l2("compare", *both[2:])[0] == 2
