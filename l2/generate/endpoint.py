"""An OpenAI-compatible server (vLLM, SGLang, llama.cpp) in the engine's place: it writes the answers, elsewhere.

Prompts go as the ids of our own encoding, so that the chat format and BOS are ours, and answers come back as ids where
the server tells them. What is drawn is up to the server; each request has a seed of its own, a function of
(seed, prompt, sample).
"""

from __future__ import annotations

import http.client
import math
import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import replace
from threading import Event, Lock
from typing import Any
from urllib.parse import urlsplit

import orjson

from l2.files.errors import L2Error, UsageError
from l2.generate.engine import Completion, Sampling, prompt_key
from l2.model.config import ModelConfig
from l2.tokens.tokenizer import Tokenizer

GREETING = 10.0  # seconds to connect, and for the list of models
PATIENCE = 600.0  # seconds for one answer: a large model may have a queue before it
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds before each further try (ours)
MALFORMED = (KeyError, IndexError, TypeError, AttributeError, ValueError)


class Http:
    """JSON from and to a server. Several threads may `ask` at once; `hang_up` ends what they are waiting for."""

    def __init__(self, url: str) -> None:
        """`url` with or without /v1 at its end. Raises UsageError for one that is no http or https URL."""
        self.url = url.rstrip("/").removesuffix("/v1").rstrip("/")
        parts = urlsplit(self.url)
        try:
            self._address = parts.hostname or "", parts.port
        except ValueError:  # the port is no number
            self._address = "", None
        if parts.scheme not in ("http", "https") or not self._address[0] or parts.query or "@" in parts.netloc:
            raise UsageError(f"--endpoint {url}: write http://HOST:PORT, and a key into OPENAI_API_KEY")
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._path = parts.path
        self._headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY", "").strip():
            self._headers["Authorization"] = f"Bearer {key}"
        self._lock, self._over = Lock(), Event()
        self._open: set[socket.socket] = set()

    def ask(self, path: str, body: dict[str, Any] | None = None, patience: float = PATIENCE) -> Any:
        """The JSON that the server answers to a GET or, with a `body`, to a POST; waits `patience` seconds for it.

        Tries again after status 429 or 5xx and when the connection breaks. Raises L2Error for everything else.
        """
        for pause in (*PAUSES, None):
            try:
                status, reply = self._exchange(path, body, patience)
            except TimeoutError:
                raise L2Error(f"{self.url}{path}: no answer within {patience:g} seconds") from None
            except (OSError, http.client.IncompleteRead) as error:
                trouble = f"the connection broke ({error})"
            except http.client.HTTPException:
                raise L2Error(f"{self.url}: what answers there does not speak HTTP") from None
            else:
                if status == 200:
                    return _parsed(reply, self.url + path)
                trouble = f"status {status}: {_message(reply)}"
                if status != 429 and status < 500:
                    break
            if pause is None or self._over.wait(pause):
                break
        raise L2Error(f"{self.url}{path}: {trouble}")

    def _exchange(self, path: str, body: dict[str, Any] | None, patience: float) -> tuple[int, bytes]:
        """Status and body of the answer to one request."""
        connection = self._kind(*self._address, timeout=GREETING)
        sock = self._connect(connection)
        try:
            sock.settimeout(patience)
            method, data = ("GET", None) if body is None else ("POST", orjson.dumps(body))
            connection.request(method, self._path + path, data, self._headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            with self._lock:
                self._open.discard(sock)
            connection.close()

    def _connect(self, connection: http.client.HTTPConnection) -> socket.socket:
        try:
            connection.connect()
        except OSError as error:
            raise L2Error(f"{self.url}: no server can be reached there ({error.strerror or error})") from None
        sock: socket.socket = connection.sock
        with self._lock:
            if self._over.is_set():
                raise L2Error(f"{self.url}: hung up")
            self._open.add(sock)
        return sock

    def hang_up(self) -> None:
        """Break all connections: threads that wait for an answer end, and the server may stop writing it."""
        with self._lock:
            self._over.set()
            for sock in self._open:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)


def _parsed(reply: bytes, where: str) -> Any:
    try:
        return orjson.loads(reply)
    except orjson.JSONDecodeError:
        raise L2Error(f"{where}: the answer is no JSON: {reply[:60].decode(errors='replace')!r}") from None


def _message(reply: bytes) -> str:
    """What the body of an error says, in the forms of OpenAI, of older vLLM and of FastAPI, or else as it is."""
    said: Any = reply.decode(errors="replace")
    with suppress(orjson.JSONDecodeError, AttributeError):
        fields = orjson.loads(reply)
        error = fields.get("error", fields)
        said = error if isinstance(error, str) else error.get("message") or error.get("detail") or said
    return " ".join(str(said).split())[:400] or "without a word"


class Endpoint:
    """A model that a server runs, in the place of a LanguageModel where answers are sampled (`engine.Server`).

    `name` is how samples and results name it: the server's URL and the model it serves, as --endpoint takes them.
    config: of a checkpoint with the same tokenizer; its context is shortened to the server's where that tells it.
    """

    def __init__(self, url: str, served: str, config: ModelConfig, tokenizer: Tokenizer) -> None:
        self.url, self.served, self.config, self.tokenizer = url, served, config, tokenizer
        self.name = f"{url}#{served}"

    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[int],
        limits: Sequence[int],
        sampling: Sampling,
        k: int,
        at_once: int,
        hear: Callable[[int, int, Completion], None],
    ) -> None:
        """Ask for `k` answers to each prompt, one a request, `at_once` in flight (see `engine.Server`).

        Raises L2Error when a request fails for good; those in flight are then broken off, as on any exception.
        """
        line = Http(self.url)
        wanted = [(which, sample) for which in range(len(prompts)) for sample in range(k)]
        pool = ThreadPoolExecutor(min(at_once, len(wanted)))

        def ask(which: int, sample: int) -> Completion:
            body = request_body(self.served, prompts[which], limits[which], sampling, keys[which], sample)
            return self._read(line.ask("/v1/completions", body))

        try:
            asked = {pool.submit(ask, *each): each for each in wanted}
            for future in as_completed(asked):
                hear(*asked[future], future.result())
        finally:
            line.hang_up()
            pool.shutdown(cancel_futures=True)

    def _read(self, reply: Any) -> Completion:
        try:
            return read_answer(reply, self.tokenizer, self.config.vocab_size, self.name)
        except MALFORMED as error:
            what = f"{type(error).__name__}: {error}"
            raise L2Error(f"{self.name}: not the answer of an OpenAI-compatible server ({what})") from None


def request_body(
    served: str, prompt: Sequence[int], limit: int, sampling: Sampling, key: int, sample: int
) -> dict[str, Any]:
    """The request for one answer of at most `limit` tokens, with a seed of 31 bits.

    What narrows the distribution is always said, in the words of vLLM and SGLang and of llama.cpp (repeat_...): the
    servers' own defaults, or those of a generation_config.json, are not those of `Sampling`.
    """
    return {
        "model": served,
        "prompt": list(prompt),
        "max_tokens": limit,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,  # -1 is everything to all three
        "min_p": 0.0,
        "repetition_penalty": sampling.repetition_penalty,
        "repeat_penalty": sampling.repetition_penalty,
        "repeat_last_n": -1,
        "seed": prompt_key(f"{sampling.seed} {key} {sample}") >> 33,
        "logprobs": 1,
        "return_token_ids": True,
    }


def read_answer(reply: Any, tokenizer: Tokenizer, vocab_size: int, where: str = "server") -> Completion:
    """The answer in the server's JSON; EOS is added where it was left out of an answer that has ended.

    The ids are the server's own: `token_ids` of vLLM and SGLang, or those beside llama.cpp's log-probabilities, which
    leave out bytes inside a character and are taken when none is missing. Else they are those of the text. A
    log-probability is what the server counts (vLLM: at temperature 1, before any cut), NaN where it tells none.
    Raises L2Error, about `where`, for ids of another tokenizer, and one of MALFORMED for JSON of another form.
    """
    choice = reply["choices"][0]
    text, finish, logprobs = choice["text"], choice["finish_reason"], choice.get("logprobs") or {}
    beside = logprobs.get("content") or []
    tokens, values = choice.get("token_ids"), logprobs.get("token_logprobs") or [each["logprob"] for each in beside]
    if tokens is None and beside and len(beside) == reply["usage"]["completion_tokens"]:
        tokens = [each["id"] for each in beside]
    if tokens is None:
        tokens, values = continuation_ids(tokenizer, text), []  # they may not be the tokens that were counted
    elif not all(type(token) is int and 0 <= token < vocab_size for token in tokens):
        raise L2Error(f"{where}: gives ids that are not all below {vocab_size:,}; its tokenizer is not --model's")
    elif max(tokens, default=0) < tokenizer.vocab_size and _letters(tokenizer.decode(tokens)) != _letters(text):
        ours = tokenizer.decode(tokens)
        raise L2Error(f"{where}: its tokenizer is not --model's: {text!r:.60} there is {ours!r:.60} here")
    if finish not in ("stop", "length"):
        raise ValueError(f"finish_reason {finish!r}")
    logs = [math.nan if value is None else float(value) for value in values]
    if len(logs) != len(tokens):
        logs = [math.nan] * len(tokens)
    if finish == "stop" and tokens[-1:] != [tokenizer.eos_id]:
        tokens, logs = [*tokens, tokenizer.eos_id], [*logs, math.nan]
    return Completion(tokens, logs, finish)


def _letters(text: str) -> str:
    """`text` without what servers write in their own ways: spaces, and bytes that are no character."""
    return "".join(text.replace("\N{REPLACEMENT CHARACTER}", "").split())


def continuation_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text that goes on from another: without the space that SentencePiece puts before a text.

    That space stands before the line feed, which no piece holds, since SentencePiece learns from lines.
    """
    return tokenizer.encode("\n" + text)[len(tokenizer.encode("\n")) :]


def open_endpoint(given: str, config: ModelConfig, tokenizer: Tokenizer) -> Endpoint:
    """The model at `given`, URL or, where several are served, URL#NAME.

    Raises UsageError for a name that is not served, or none where several are, and L2Error where no server answers.
    """
    url, _, wanted = given.partition("#")
    line = Http(url)
    reply = line.ask("/v1/models", patience=GREETING)
    try:
        served = {str(model["id"]): model.get("max_model_len") or config.max_seq_len for model in reply["data"]}
        contexts = {name: min(config.max_seq_len, int(length)) for name, length in served.items()}
    except MALFORMED:
        raise L2Error(f"{line.url}/v1/models: not the list of an OpenAI-compatible server") from None
    name = wanted or next(iter(contexts), "")
    if name not in contexts or (not wanted and len(contexts) > 1):
        raise UsageError(f"--endpoint {given}: give URL#NAME with one of {', '.join(contexts) or 'no models'}")
    return Endpoint(line.url, name, replace(config, max_seq_len=contexts[name]), tokenizer)
