"""--endpoint against a server on this machine that speaks the protocol, and whose answers are the engine's own."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from l2.files.errors import L2Error, UsageError
from l2.generate import endpoint
from l2.generate.endpoint import continuation_ids, open_endpoint, read_answer, request_body
from l2.generate.engine import Completion, Sampling, generate, prompt_key
from l2.model.checkpoint import load_config, load_language_model, new_model
from l2.tokens.chat import as_messages, encode_prompt
from tests.conftest import WORDS, sentences, small_config
from tests.eval.scripted import saved, saying

Answer = tuple[int, Any]  # status, and what becomes JSON (bytes stay as they are)


class Stub(ThreadingHTTPServer):
    """vLLM's side of the protocol, greedy. `change(body, answer)` may answer otherwise, or not at all."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, model_dir: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        from l2.tokens.tokenizer import load_tokenizer

        self.model, self.tokenizer = load_language_model(model_dir), load_tokenizer(model_dir)
        self.models: list[dict[str, Any]] = [{"id": "tiny", "object": "model"}]
        self.asked: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.change: Callable[[dict[str, Any], Answer], Answer] = lambda body, answer: answer
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def complete(self, body: dict[str, Any]) -> Answer:
        with self.lock:
            self.asked.append(body)
            sampling = Sampling(0.0, max_new_tokens=body["max_tokens"])
            ((made,),) = generate(self.model, [body["prompt"]], [0], sampling)
        before = self.tokenizer.decode(body["prompt"])
        choice = {
            "index": 0,
            "text": self.tokenizer.decode(body["prompt"] + made.tokens)[len(before) :],
            "logprobs": {"token_logprobs": made.logprobs},
            "finish_reason": made.finish,
            "token_ids": made.tokens,
        }
        return 200, {"choices": [choice], "usage": {"completion_tokens": len(made.tokens)}}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Stub

    def log_message(self, *args: object) -> None:
        pass

    def _send(self, status: int, answer: Any) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        assert self.path == "/v1/models"
        self.server.keys.add(self.headers["Authorization"])
        self._send(200, {"object": "list", "data": self.server.models})

    def do_POST(self) -> None:
        assert self.path == "/v1/completions"
        self.server.keys.add(self.headers["Authorization"])
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._send(*self.server.change(body, self.server.complete(body)))


@pytest.fixture(scope="module")
def walker(tokenizer, tmp_path_factory) -> Path:
    """A checkpoint whose greedy answers differ from prompt to prompt; some end and some would go on for ever."""
    model = new_model(small_config(tokenizer.vocab_size, max_seq_len=96)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(8.0)
        model.lm_head.weight[2] *= 3.0
    return saved(model, tmp_path_factory.mktemp("walker"), tokenizer)


@pytest.fixture
def serve(tmp_path) -> Iterator[Callable[[Path], tuple[Stub, Path]]]:
    """A server of a checkpoint, and a directory that has all of it but the weights."""
    running: list[Stub] = []

    def start(model_dir: Path) -> tuple[Stub, Path]:
        running.append(Stub(model_dir))
        threading.Thread(target=running[-1].serve_forever, args=(0.01,), daemon=True).start()
        bare = tmp_path / f"bare{len(running)}"
        shutil.copytree(model_dir, bare, ignore=shutil.ignore_patterns("*.safetensors"))
        return running[-1], bare

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(endpoint, "PAUSES", (0.0, 0.0))


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    words = WORDS.split()
    rows: list[dict] = [{"prompt": " ".join(words[i % 7 : 2 + i]), "id": f"p{i}"} for i in range(20)]
    rows[3]["prompt"] = [{"role": "system", "content": "be terse"}, {"role": "user", "content": "who"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write(path: Path, *records: dict) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


GREEDY = ("--temperature", 0, "--max-new-tokens", 12, "--quiet")


def test_samples_are_those_of_the_engine(l2, serve, walker, prompts, tokenizer):
    """Byte by byte but for the name; the prompts go out as our ids, and no weights are read."""
    (server, bare), outs = serve(walker), []
    for more in ([], ["-n", 2], ["--stop", "a", "--stop", "ed"], ["--raw"]):
        asked = (
            write(bare.parent / "raw.jsonl", {"prompt": "the cat"}, {"prompt": "tea"}) if "--raw" in more else prompts
        )
        status, here, _ = l2("generate", "--model", walker, asked, *GREEDY, *more, "--batch-size", 1)
        name = f"{server.url}#tiny"
        for url in (server.url, f"{server.url}/v1/", name):
            there = l2("generate", "--model", bare, "--endpoint", url, asked, *GREEDY, *more)
            assert there == (status, here.replace(json.dumps(str(walker)), json.dumps(name)), "") and status == 0
        outs.append(here)
    assert len({json.loads(line)["response"] for line in outs[0].splitlines()}) > 10
    assert all(finish in outs[0] for finish in ('"finish":"stop"', '"finish":"length"')) and outs[2] != outs[0]
    records = [json.loads(line) for line in prompts.read_text().splitlines()]
    ours = [encode_prompt(tokenizer, as_messages(record["prompt"])) for record in records]
    first = server.asked[:20]
    assert sorted(body["prompt"] for body in first) == sorted(ours)
    assert {body["model"] for body in first} == {"tiny"}


def test_requests_say_all_that_is_drawn_from():
    """Seeds of 31 bits that differ by seed, prompt and sample; what is off is said to be off, for each server."""
    body = request_body("m", (1, 5), 9, Sampling(0.7, 0.9, 12, 3, 40, 1.2), prompt_key("a"), 0)
    assert (body["temperature"], body["top_p"], body["top_k"], body["repetition_penalty"]) == (0.7, 0.9, 40, 1.2)
    assert (body["prompt"], body["max_tokens"], body["repeat_penalty"], body["repeat_last_n"]) == ([1, 5], 9, 1.2, -1)
    plain = request_body("m", (1,), 9, Sampling(), 1, 0)
    assert (plain["top_k"], plain["min_p"], plain["repetition_penalty"]) == (-1, 0.0, 1.0)
    seeds = {
        request_body("m", (1,), 9, Sampling(seed=seed), prompt_key(i), sample)["seed"]
        for seed in (0, 1)
        for i in range(100)
        for sample in range(5)
    }
    assert len(seeds) == 1000 and all(0 <= seed < 2**31 for seed in seeds)
    assert len({seed >> 27 for seed in seeds}) == 16


def test_every_command_that_samples(l2, serve, tokenizer, rm_dir, tmp_path):
    """rs-sample, gatt-build and evaluate give what they give with the weights, but for the model's name and hash."""
    model = saved(saying(tokenizer, "Ahoy cat", max_seq_len=180), tmp_path / "sailor", tokenizer)
    server, bare = serve(model)
    line = sentences(3)
    asked = write(tmp_path / "asked.jsonl", *({"prompt": text, "id": i} for i, text in enumerate(line)))
    users = [{"role": "user", "content": text} for text in line]
    dialogs = write(tmp_path / "d.jsonl", {"messages": users, "id": "d"}, {"messages": users[:1], "id": "e"})
    constraint = {"instruction": "start with Ahoy", "kind": "prefix", "expect": "Ahoy"}
    constraints = write(tmp_path / "c.jsonl", constraint)
    qa = write(tmp_path / "qa.jsonl", {"prompt": "who x [/INST]", "target": "ahoy cat"})
    gatt = write(tmp_path / "gatt.jsonl", {"messages": users[:2], "constraint": constraint})
    tasks = ["--task", f"qa={qa}", f"gatt={gatt}", f"asked={asked}"]
    name = f"{server.url}#tiny"
    for command in (
        ["rs-sample", asked, "--rm", rm_dir, "-k", 2],
        ["gatt-build", dialogs, "--constraints", constraints],
        ["evaluate", "--rm", rm_dir, "--baseline", model, *tasks],
    ):
        made = []
        for where in (["--model", model], ["--model", bare, "--endpoint", server.url]):
            status, out, err = l2(command[0], *where, *GREEDY, "--batch-size", 1, *command[1:])
            assert (status, err) == (0, "") and out
            made.append([json.loads(each) for each in out.splitlines()])
        for here, there in zip(*made, strict=True):
            if command[0] == "evaluate":
                assert (there.pop("model"), there.pop("model_sha256")) == (name, None)
                del here["model"], here["model_sha256"], here["time"], there["time"]
            elif command[0] in ("rs-sample", "gatt-build"):
                assert there["model"] == name
                here["model"] = name
            assert here == there


def test_tasks_that_need_log_likelihoods_are_refused(l2, serve, walker, tmp_path):
    server, bare = serve(walker)
    val = write(tmp_path / "val.jsonl", {"text": "the cat"})
    quiz = write(tmp_path / "quiz.jsonl", {"question": "who", "choices": ["a", "b"], "answer": "A"})
    pairs = write(tmp_path / "pairs.jsonl", {"prompt": "a", "chosen": "b", "rejected": "c"})
    for task, words in (
        (val, "needs log-likelihoods"),
        (quiz, "needs log-likelihoods"),
        (pairs, "asks a reward model"),
    ):
        status, _, err = l2("evaluate", "--model", bare, "--endpoint", server.url, "--task", f"t={task}")
        assert (status, err.count("\n")) == (2, 1) and words in err
        assert task == pairs or "exact match, word problems, dated facts, instructions, prompts" in err
    assert not server.asked


def reply(**choice: Any) -> dict[str, Any]:
    return {"choices": [{"text": " a dog", "finish_reason": "stop"} | choice], "usage": {"completion_tokens": 3}}


def test_answers_as_vllm_llama_cpp_and_others_give_them(tokenizer):
    ids, nan = tokenizer.encode("a dog"), pytest.approx(float("nan"), nan_ok=True)
    n = tokenizer.vocab_size

    def read(**choice: Any) -> Completion:
        return read_answer(reply(**choice), tokenizer, n)

    assert len(ids) == 2
    whole = {"token_logprobs": [-1.0, -2.0, -0.5]}
    assert read(token_ids=[*ids, 2], logprobs=whole) == Completion([*ids, 2], [-1.0, -2.0, -0.5], "stop")
    beside = [{"id": i, "logprob": -float(i)} for i in (*ids, 2)]
    assert read(logprobs={"content": beside}) == Completion([*ids, 2], [-float(i) for i in (*ids, 2)], "stop")
    # without EOS it is added, and nothing says how likely it was
    assert read(token_ids=ids, logprobs={"token_logprobs": [-1.0, None]}) == Completion(
        [*ids, 2], [-1.0, nan, nan], "stop"
    )
    assert read(token_ids=ids, finish_reason="length") == Completion(ids, [nan, nan], "length")
    # text alone, or with ids of which one is missing
    for logprobs in (None, whole, {"content": beside[:2]}):
        assert read(logprobs=logprobs) == Completion([*ids, 2], [nan, nan, nan], "stop")
    for other in (
        {"token_ids": [n, 2]},
        {"token_ids": [-1]},
        {"token_ids": ["7"]},
        {"token_ids": tokenizer.encode("tea")},
    ):
        with pytest.raises(L2Error, match="its tokenizer is not --model's"):
            read(**other)
    # bytes that are no UTF-8: as vLLM 0.32 gives them, with the Y among them gone
    odd = [*(3 + byte for byte in b"\xe2Y"), *ids]
    assert tokenizer.decode(odd) == "\ufffdY a dog" and read(token_ids=odd, text="\ufffd\ufffd a dog").tokens == [
        *odd,
        2,
    ]
    with pytest.raises(ValueError, match="finish_reason 'abort'"):
        read(finish_reason="abort")


@settings(max_examples=100, deadline=None)
@given(st.text("the cat\n▁éя🙂 .", max_size=20), st.sampled_from(["the", "[/INST]", "ca"]))
def test_text_goes_on_from_where_the_prompt_ended(tokenizer, text, before):
    start = tokenizer.encode(before)
    whole = tokenizer.decode(start + continuation_ids(tokenizer, text))
    assert whole == before + text.replace("▁", " ")  # SentencePiece knows no other ▁ than its space


def test_replies_without_ids_give_the_same_records(l2, serve, tokenizer, tmp_path):
    model = saved(saying(tokenizer, "a dog"), tmp_path / "m", tokenizer)
    server, bare = serve(model)
    asked = write(tmp_path / "p.jsonl", {"prompt": "who ran", "id": "p"})
    here = json.loads(l2("generate", "--model", model, asked, *GREEDY)[1])

    def text_alone(body: dict[str, Any], answer: Answer) -> Answer:
        (choice,) = answer[1]["choices"]
        return 200, {"choices": [{field: choice[field] for field in ("text", "finish_reason")}]}

    server.change = text_alone
    there = json.loads(l2("generate", "--model", bare, "--endpoint", server.url, asked, *GREEDY)[1])
    assert there["logprob"] is None
    assert there | {"model": "", "logprob": 0} == here | {"model": "", "logprob": 0}


def test_order_is_kept_with_many_in_flight(serve, walker, tokenizer):
    """32 requests at once, the last answered first; as many answers as asked for, each in its place."""
    server, _ = serve(walker)
    model = open_endpoint(server.url, load_config(walker)[0], tokenizer)
    rows = [[1, *tokenizer.encode("the cat " * (1 + i % 5) + WORDS.split()[i])] for i in range(16)]
    together, told, heard = threading.Barrier(32), [], []

    def later(body: dict[str, Any], answer: Answer) -> Answer:
        together.wait(10)
        time.sleep(0.002 * (16 - rows.index(body["prompt"])))
        return answer

    server.change = later
    greedy = Sampling(0.0, max_new_tokens=8)
    answers = generate(
        model, rows, range(16), greedy, k=2, batch_size=32,
        on_token=lambda *each: heard.append(each), on_progress=lambda done, total, note: told.append((done, total)),
    )  # fmt: skip
    expected = generate(server.model, rows, range(16), greedy, k=2)
    assert [[a.tokens for a in b] for b in answers] == [[a.tokens for a in b] for b in expected]
    assert told == [(i, 16) for i in range(1, 17)]
    for which in range(16):
        for sample in range(2):
            assert [t for i, j, t in heard if (i, j) == (which, sample)] == answers[which][sample].tokens
    assert generate(model, [], [], greedy) == []


def failing(server: Stub, times: int, status: int, answer: Any) -> None:
    left = iter(range(times))
    server.change = lambda body, real: real if next(left, None) is None else (status, answer)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again(l2, serve, walker, prompts, status):
    server, bare = serve(walker)
    argv = ["generate", "--model", bare, "--endpoint", server.url, prompts, *GREEDY, "--batch-size", 1]
    expected = l2(*argv)
    failing(server, 2, status, {"error": {"message": "busy"}})
    assert l2(*argv) == expected and expected[0] == 0
    failing(server, 3, status, {"error": {"message": "too\nbusy"}})
    assert l2(*argv) == (1, "", f"l2 generate: {server.url}/v1/completions: status {status}: too busy\n")


def test_a_broken_connection_is_tried_again(l2, serve, walker, prompts):
    server, bare = serve(walker)
    argv = ["generate", "--model", bare, "--endpoint", server.url, prompts, *GREEDY, "--batch-size", 1]
    expected, left = l2(*argv), iter(range(2))

    def drop(body: dict[str, Any], answer: Answer) -> Answer:
        if next(left, None) is not None:
            raise ConnectionError
        return answer

    server.change = drop
    assert l2(*argv) == expected and expected[0] == 0


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (400, {"error": {"message": "no room", "code": 400}}, "/v1/completions: status 400: no room"),
        (400, {"object": "error", "message": "no room"}, "status 400: no room"),
        (422, {"detail": [{"loc": "prompt"}]}, "status 422: [{'loc': 'prompt'}]"),
        (404, b"<html>", "status 404: <html>"),
        (401, b"", "status 401: without a word"),
        (200, b'{"choices": [', "the answer is no JSON: '{\"choices\": ['"),
        (200, {"choices": []}, "not the answer of an OpenAI-compatible server (IndexError"),
        (200, [], "not the answer of an OpenAI-compatible server (TypeError"),
        (200, reply(finish_reason=None), "finish_reason None"),
        (200, reply(token_ids=[9]), "its tokenizer is not --model's"),
    ],
)
def test_failures_are_one_sentence(l2, serve, walker, prompts, status, answer, words, tmp_path):
    server, bare = serve(walker)
    server.change = lambda body, real: (status, answer)
    kept = write(tmp_path / "out.jsonl", {"old": 1})
    got, out, err = l2("generate", "--model", bare, "--endpoint", server.url, prompts, *GREEDY, "-o", kept)
    assert (got, out, err.count("\n")) == (1, "", 1) and words in err and server.url in err
    assert kept.read_text() == '{"old": 1}\n'


def test_a_failure_does_not_wait_for_what_is_in_flight(l2, serve, walker, prompts):
    """One request is refused while the others hang: they are broken off."""
    server, bare = serve(walker)
    forever = threading.Event()

    def hang(body: dict[str, Any], answer: Answer) -> Answer:
        if body is not server.asked[0]:
            forever.wait(30)
        return 400, {"error": {"message": "not you"}}

    server.change, start = hang, time.monotonic()
    status, _, err = l2("generate", "--model", bare, "--endpoint", server.url, prompts, *GREEDY)
    forever.set()
    assert status == 1 and err.endswith("status 400: not you\n") and time.monotonic() - start < 5


def test_slow_absent_and_foreign_servers(l2, serve, walker, prompts, monkeypatch):
    server, bare = serve(walker)
    argv = ["generate", "--model", bare, prompts, *GREEDY, "--endpoint"]
    monkeypatch.setattr(endpoint.Http.ask, "__defaults__", (None, 0.2))
    forever = threading.Event()

    def hang(body: dict[str, Any], answer: Answer) -> Answer:
        forever.wait(30)
        return answer

    server.change = hang
    assert l2(*argv, server.url) == (
        1, "", f"l2 generate: {server.url}/v1/completions: no answer within 0.2 seconds\n"
    )  # fmt: skip
    forever.set()

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"  # bound, and nobody listens
        assert l2(*argv, url) == (1, "", f"l2 generate: {url}: no server can be reached there (Connection refused)\n")

    with socket.create_server(("127.0.0.1", 0)) as other:

        def greet() -> None:
            connection, _ = other.accept()
            connection.sendall(b"SSH-2.0-OpenSSH\r\n")
            connection.recv(1000)
            connection.close()

        threading.Thread(target=greet, daemon=True).start()
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        assert l2(*argv, url) == (1, "", f"l2 generate: {url}: what answers there does not speak HTTP\n")

    for url in (
        "localhost:8000",
        "ftp://a",
        "http://",
        "http://a:b",
        "http://me:key@a",
        "http://a?key=1",
        "http://[::1",
    ):
        status, _, err = l2(*argv, url)
        assert status == 2 and "write http://HOST:PORT" in err and err.count("\n") == 1


def test_the_model_is_named_where_several_are_served(serve, walker, tokenizer, l2, prompts):
    server, bare = serve(walker)
    config = load_config(walker)[0]
    server.models = [{"id": "one"}, {"id": "org/two", "max_model_len": 40}]
    with pytest.raises(UsageError, match="give URL#NAME with one of one, org/two"):
        open_endpoint(server.url, config, tokenizer)
    with pytest.raises(UsageError, match="#three: give URL#NAME with one of one, org/two"):
        open_endpoint(f"{server.url}#three", config, tokenizer)
    assert open_endpoint(f"{server.url}#one", config, tokenizer).config == config
    assert open_endpoint(f"{server.url}/v1#org/two", config, tokenizer).name == f"{server.url}#org/two"
    # the server's context is shorter than config.json's: prompts and answers have to fit it
    status, _, err = l2("generate", "--model", bare, "--endpoint", f"{server.url}#org/two", prompts, *GREEDY)
    assert status == 65 and "expected fewer than 40" in err and not server.asked
    server.models = []
    with pytest.raises(UsageError, match="no models"):
        open_endpoint(server.url, config, tokenizer)
    server.models = [{"name": "x"}]
    with pytest.raises(L2Error, match="not the list of an OpenAI-compatible server"):
        open_endpoint(server.url, config, tokenizer)


def test_the_key_goes_with_every_request_and_into_no_record(l2, serve, walker, prompts, monkeypatch):
    server, bare = serve(walker)
    argv = ["generate", "--model", bare, "--endpoint", server.url, prompts, *GREEDY]
    assert l2(*argv)[0] == 0 and server.keys == {None}
    server.keys.clear()
    monkeypatch.setenv("OPENAI_API_KEY", "sesame\n")
    status, out, _ = l2(*argv)
    assert status == 0 and server.keys == {"Bearer sesame"} and "sesame" not in out


def test_no_connection_without_the_option(l2, walker, prompts, monkeypatch):
    def refuse(*args: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert l2("generate", "--model", walker, prompts, *GREEDY)[0] == 0


def test_what_does_not_go_with_a_server(l2, serve, walker, rm_dir, prompts):
    server, bare = serve(walker)
    argv = ["generate", "--endpoint", server.url, prompts, *GREEDY, "--model"]
    status, _, err = l2(*argv, bare, "--max-batch-tokens", 500)
    assert status == 2 and "--max-batch-tokens bounds the cache of this machine" in err
    status, _, err = l2(*argv, rm_dir)
    assert status == 65 and "found a reward model; expected a language model" in err
