"""The server of annotation as requests meet it: who is let in, what is refused, what is on disk when it answers."""

from __future__ import annotations

import http.client
import json
import threading
import time

import pytest

from l2.align.annotation.board import Answer, Board, Item
from l2.align.annotation.desk import Desk
from l2.align.annotation.sampling import SAME, Ahead, Couple, Variant
from l2.align.annotation.server import MAX_BODY, Service, listen, make_app
from l2.files.errors import L2Error
from l2.generate.engine import Sampling
from l2.model.checkpoint import load_language_model
from tests.eval.scripted import saying

TOKEN = "a-token"
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"


class Client:
    """Requests to a served desk."""

    def __init__(self, desk: Desk, ahead: Ahead | None = None) -> None:
        self.desk, self.at = desk, listen(0)
        self.port = self.at.getsockname()[1]
        self.service = Service(make_app(desk, TOKEN, ahead), self.at)
        self.thread = threading.Thread(target=self.service.run_here)
        self.thread.start()

    def close(self) -> None:
        self.service.stop()
        self.thread.join(10)
        self.at.close()
        self.desk.close()

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, str, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        given = {"Content-Type": "application/json"} if body is not None else {}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, data, given)
        answer = connection.getresponse()
        found = answer.status, answer.read().decode(), {k.lower(): v for k, v in answer.getheaders()}
        connection.close()
        return found

    def view(self, who: str) -> dict:
        return json.loads(self.ask("GET", f"/{TOKEN}/api/view?who={who}")[1])

    def act(self, action: str, **body: object) -> tuple[int, dict]:
        status, text, _ = self.ask("POST", f"/{TOKEN}/api/{action}", body)
        return status, json.loads(text)


@pytest.fixture
def client(tmp_path):
    said = [{"role": "user", "content": HOSTILE}]
    items = [Item(f"i{n}", said, (Answer(HOSTILE, "A"), Answer(f"two {n}", "B"))) for n in range(5)]
    made = Client(Desk(Board(items, overlap=2), tmp_path / "p.jsonl", {}))
    yield made
    made.close()


def test_the_page_is_whole_and_runs_nothing_but_its_own(client):
    kinds = {"": "text/html", "page.css": "text/css", "page.js": "javascript"}
    for name, kind in kinds.items():
        status, text, headers = client.ask("GET", f"/{TOKEN}/{name}")
        assert status == 200 and kind in headers["content-type"] and "http" not in text.replace("https://", "")
        assert "default-src 'none'" in headers["content-security-policy"] and "unsafe" not in str(headers)
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers and headers["cache-control"] == "no-store"
    script = client.ask("GET", f"/{TOKEN}/page.js")[1]
    assert not any(word in script for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("))


def test_nobody_gets_in_without_the_token_or_by_another_name(client):
    for path in (
        "/",
        "/wrong/",
        "/page.js",
        f"/{TOKEN}x/",
        "/wrong/api/view?who=a",
        f"//{TOKEN}/",
        f"/{TOKEN}/../x",
        "/%ff/",
        "/%00",
    ):
        assert client.ask("GET", path)[0] == 404, path
    view = f"/{TOKEN}/api/view?who=a"
    for host in ("evil.example", f"evil.example:{client.port}", "127.0.0.1.evil.example", "", "[::1]"):
        assert client.ask("GET", view, Host=host)[0] in (400, 421), host
    assert client.ask("GET", view, Host="localhost")[0] == client.ask("GET", view, Host="localhost:9")[0] == 200
    assert client.ask("GET", view, Origin="http://evil.example")[0] == 403
    assert client.ask("GET", view, Origin=f"http://127.0.0.1:{client.port}")[0] == 200
    assert client.ask("OPTIONS", view, Origin="http://evil.example")[0] == 403
    choice = {"who": "a", "item": "i0", "position": 0, "rating": "better"}
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):  # what a foreign form sends
        assert client.ask("POST", f"/{TOKEN}/api/choose", choice, Content_Type=kind)[0] == 415
    assert client.ask("POST", "/wrong/api/choose", choice)[0] == 404
    assert not client.desk.board.records


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff", {}, {"who": 5}, {"who": "../x"}, {"who": "a" * 41}, {"who": "a\n"}]
)
def test_requests_that_are_none(client, body):
    assert client.ask("POST", f"/{TOKEN}/api/choose", body)[0] == 400
    assert client.act("format", who="a")[0] == 400
    assert client.ask("GET", f"/{TOKEN}/api/view?who=%3Cb%3E")[0] == 400


def test_choices_that_are_none(client):
    item = client.view("a")["item"]
    for wrong in ({"position": 7}, {"position": [0]}, {"rating": None}, {"rating": {}}, {"safety": []}, {}):
        body = {"who": "a", "item": item, "position": 0, "rating": "better"} | wrong
        assert client.act("choose", **(body if wrong else {"who": "a", "item": item}))[0] == 400
    assert client.act("choose", who="a", item=item, position=1.0, rating="better")[0] == 400
    assert client.act("ask", who="a", item=item, text="who else")[0] == 409, "there is no model that could answer"
    assert client.view("a")["item"] == item
    long = client.ask("POST", f"/{TOKEN}/api/ask", {"who": "a", "text": "x" * MAX_BODY})
    assert long[0] == 400 and client.act("ask", who="a", text="out of turn")[0] == 409
    assert not client.desk.board.records


def test_a_choice_is_on_disk_when_the_next_is_shown(client, tmp_path):
    shown = client.view("a")
    for n in range(5):
        assert "A" not in json.dumps({k: v for k, v in shown.items() if k not in ("messages", "answers", "item")})
        item = shown["item"]
        status, shown = client.act("choose", who="a", item=item, position=n % 2, rating="slightly")
        events = [json.loads(line) for line in (tmp_path / "p.journal.jsonl").read_text().splitlines()]
        assert status == 200 and events[-1]["item"] == item and len(events) == n + 2
        assert len((tmp_path / "p.jsonl").read_text().splitlines()) == n + 1
    assert shown["state"] == "done" and shown["progress"]["done"] == 5 and shown["progress"]["total"] == 10
    assert client.act("choose", who="a", item=item, position=0, rating="better")[0] == 409, "sent twice, kept once"
    assert client.act("undo", who="a")[1]["item"] == item and len(client.desk.board.records) == 4


def test_a_disk_that_is_full_is_told_and_nothing_moves_on(client, monkeypatch):
    item = client.view("a")["item"]

    def full(*event: object, **how: object) -> None:
        raise L2Error("p.journal.jsonl: can't be written (No space left on device); nothing was added")

    monkeypatch.setattr(client.desk.journal, "append", full)
    status, answer = client.act("choose", who="a", item=item, position=0, rating="better")
    assert status == 500 and "No space left" in answer["error"] and client.view("a")["item"] == item


def test_many_people_at_once(tmp_path):
    """Eight people judge 60 items twice each, at the same time: none is judged thrice, or twice by one."""
    said = [{"role": "user", "content": "who"}]
    items = [Item(f"i{n}", said, (Answer("one", "A"), Answer("two", "B"))) for n in range(60)]
    client = Client(Desk(Board(items, overlap=2), tmp_path / "p.jsonl", {}))

    def work(who: str) -> None:
        shown = client.view(who)
        while shown["state"] != "done":
            if shown["state"] == "compare":
                shown = client.act("choose", who=who, item=shown["item"], position=0, rating="better")[1]
            else:
                shown = client.view(who)

    people = [threading.Thread(target=work, args=(f"p{n}",)) for n in range(8)]
    for person in people:
        person.start()
    for person in people:
        person.join(30)
    records = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    judged = [(record["id"], record["who"]) for record in records]
    client.close()
    assert len(judged) == len(set(judged)) == 120 and len({who for _, who in judged}) > 1
    assert all(sum(item == f"i{n}" for item, _ in judged) == 2 for n in range(60))


def variant(tokenizer, text: str, temperature: float = 0.0) -> Variant:
    model = saying(tokenizer, text, after="x [/INST]", max_seq_len=120)
    return Variant(model, tokenizer, Sampling(temperature, max_new_tokens=16), text)


def test_people_write_dialogs_with_models_in_the_background(tokenizer, tmp_path):
    board, broken = Board([], turns=2, writing=True), list[BaseException]()
    desk = Desk(board, tmp_path / "p.jsonl", {})
    ahead = Ahead(desk, Couple(variant(tokenizer, "a dog"), variant(tokenizer, "the cat")), broken.append)
    ahead.start()
    client = Client(desk, ahead)

    def settled() -> dict:
        until = time.monotonic() + 10
        while (shown := client.view("a"))["state"] == "sampling" and time.monotonic() < until:
            time.sleep(0.01)
        return shown

    assert client.view("a")["state"] == "write"
    assert client.act("ask", who="a", text="forge [INST] it")[0] == 400
    assert client.act("ask", who="a", text="who ran")[0] == 200
    shown = settled()
    assert sorted(shown["answers"]) == ["a dog", "the cat"] and shown["editable"]
    dog = shown["answers"].index("a dog")
    shown = client.act("choose", who="a", item=shown["item"], position=dog, rating="better")[1]
    assert shown["state"] == "turn" and shown["messages"][-1]["content"] == "a dog"
    client.act("ask", who="a", text="who sat")
    shown = settled()
    assert [m["content"] for m in shown["messages"]] == ["who ran", "a dog", "who sat"]
    assert client.act("choose", who="a", item=shown["item"], position=0, rating="better")[1]["state"] == "write"
    client.act("ask", who="a", text="who ran on the hill " * 40)
    assert settled()["state"] == "failed" and "120" in settled()["error"]
    assert client.act("ask", who="a", item=settled()["item"], text="who")[0] == 200 and settled()["state"] == "compare"
    ahead.stop()
    ahead.join(10)
    client.close()
    assert not broken and len(board.records) == 2


def test_answers_differ_and_are_the_same_again(tokenizer, model_dir):
    model = load_language_model(model_dir)
    one = Variant(model, tokenizer, Sampling(1.0, max_new_tokens=8), "m")
    asked = [Item(f"i{n}", [{"role": "user", "content": "who"}]) for n in range(4)]
    pairs = Couple(one, one).answers(asked)
    assert all(pair and pair[0].text != pair[1].text for pair in pairs)
    assert Couple(one, one).answers(asked[2:]) == pairs[2:] and Couple(one, one, seed=9).answers(asked) != pairs
    same = Couple(variant(tokenizer, "a dog"), variant(tokenizer, "a dog"))
    same.fill(asked[:1])
    assert asked[0].answers is None and asked[0].failed == SAME
    long = Item("long", [{"role": "user", "content": "who ran on the hill " * 40}])
    Couple(variant(tokenizer, "a dog"), variant(tokenizer, "the cat")).fill([long, asked[1]])
    assert "120" in long.failed and asked[1].answers is not None, "one that is too long takes nothing from the others"
