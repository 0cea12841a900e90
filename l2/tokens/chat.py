"""The Llama 2 chat format, as Meta's reference code encodes it (paper.md §11).

`<s>[INST] <<SYS>>\\n{system}\\n<</SYS>>\\n\\n{user} [/INST] {assistant} </s><s>[INST] {user} [/INST]`

The tags are plain text, not special ids, so a message that contains one could forge a turn: `messages_of`
refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from l2.files.errors import BadInput
from l2.files.jsonl import Record
from l2.tokens.tokenizer import Tokenizer

B_INST, E_INST = "[INST]", "[/INST]"
B_SYS, E_SYS = "<<SYS>>\n", "\n<</SYS>>\n\n"
TAGS = (B_INST, E_INST, "<<SYS>>", "<</SYS>>")

Message = Mapping[str, Any]

# The same text as a Jinja template. As Meta's, it strips after the system message is folded in.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% set content = (system if loop.first else '') + message['content'] %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('unknown role') }}{% endif %}"
    "{% endfor %}"
)


@dataclass(frozen=True)
class EncodedDialog:
    """Ids [T], and `learn` [T]: True on the tokens of weighted assistant messages and the EOS that ends them."""

    ids: list[int]
    learn: list[bool]


def as_messages(prompt: str | Sequence[Message]) -> list[dict[str, Any]]:
    """A prompt as messages: a string is one user turn."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [dict(message) for message in prompt]


def check_messages(messages: Any, where: str) -> list[dict[str, Any]]:
    """Messages as dicts. Raises BadInput for a role out of turn, no text, a bad weight or a forged tag."""
    if not isinstance(messages, list) or not messages:
        raise BadInput(where, f"messages {messages!r:.60}", "a list of {role, content}")
    expected = "system or user"
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise BadInput(where, f"message {message!r:.60}", "{role, content} with a text content")
        role = message.get("role")
        if role not in expected.split(" or "):
            raise BadInput(where, f"role {role!r}", f"{expected}: user and assistant take turns")
        if tag := next((tag for tag in TAGS if tag in message["content"]), None):
            raise BadInput(where, f"the tag {tag} in a message of the {role}", "content without Llama 2's own tags")
        if message.get("weight", 1) not in (0, 1):
            raise BadInput(where, f"weight {message['weight']!r}", "0 or 1")
        expected = "assistant" if role == "user" else "user"
    if all(message["role"] == "system" for message in messages):
        raise BadInput(where, "a system message alone", "a user message after it")
    return [dict(message) for message in messages]


def messages_of(record: Record, field: str) -> list[dict[str, Any]]:
    """The checked messages of `record[field]`: a list, or a string, which is one user turn (see `check_messages`)."""
    value = record.need(field, (str, list))
    return check_messages(as_messages(value) if isinstance(value, str) else value, record.where)


def fold_system(system: str, user: str) -> str:
    """The text of a user turn that carries a system message."""
    return B_SYS + system + E_SYS + user


def _turns(messages: Sequence[Message]) -> list[tuple[str, Message | None]]:
    """(user text with the system message folded in, the answer or None) of each turn."""
    turns = list(messages)
    if turns[0]["role"] == "system":
        turns = [{"role": "user", "content": fold_system(turns[0]["content"], turns[1]["content"])}, *turns[2:]]
    answers: list[Message | None] = list(turns[1::2])
    answers += [None] * (len(turns[::2]) - len(answers))
    return [(str(user["content"]).strip(), answer) for user, answer in zip(turns[::2], answers, strict=True)]


def encode_dialog(tokenizer: Tokenizer, messages: Sequence[Message]) -> EncodedDialog:
    """Encode a dialog turn by turn: BOS, "[INST] user [/INST] assistant ", EOS (paper.md §11).

    The last turn may lack its answer; it then ends at "[/INST]". Messages must have passed `check_messages`.
    """
    ids: list[int] = []
    learn: list[bool] = []
    for user, answer in _turns(messages):
        prompt = f"{B_INST} {user} {E_INST}"
        if answer is None:
            turn = [tokenizer.bos_id, *tokenizer.encode(prompt)]
            learned = [False] * len(turn)
        else:
            # The whole turn is encoded at once, and what ends behind the prompt is the answer.
            pieces, ends = tokenizer.encode_with_ends(f"{prompt} {str(answer['content']).strip()} ")
            weight = bool(answer.get("weight", 1))
            turn = [tokenizer.bos_id, *pieces, tokenizer.eos_id]
            learned = [False, *(weight and end > len(prompt) for end in ends), weight]
        ids += turn
        learn += learned
    return EncodedDialog(ids, learn)


def encode_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Ids of messages that end with the user: what a model continues with its answer. Raises BadInput for others."""
    if messages[-1]["role"] != "user":
        raise BadInput("prompt", "messages that end with an answer", "messages that end with the user")
    return encode_dialog(tokenizer, messages).ids
