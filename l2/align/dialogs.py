"""Dialogs in the formats people have, turned into `messages` (design.md §2).

| format            | fields                                                        | known from                |
|-------------------|---------------------------------------------------------------|---------------------------|
| messages          | messages: [{role, content, weight}]                           | OpenAI, Hugging Face, l2  |
| sharegpt          | conversations: [{from: human/gpt/system, value}], system      | ShareGPT, Vicuna          |
| preference        | chosen, prompt (or none: chosen is all); rejected is not read | TRL, l2                   |
| prompt-completion | prompt; completion or response                                | TRL, OpenAI, l2's samples |
| alpaca            | instruction, input (may be empty or missing), output; system  | Stanford Alpaca           |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from l2.align.preferences import conversation
from l2.files.errors import BadInput
from l2.files.jsonl import OnBad, Record
from l2.tokens.chat import as_messages, check_messages

Messages = list[dict[str, Any]]

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}


def _turn(message: Any, where: str) -> dict[str, Any]:
    """A message of ShareGPT's {from, value}, or of {role, content}, with the role's usual name."""
    if not isinstance(message, dict):
        raise BadInput(where, f"message {message!r:.60}", "{from, value}")
    role = message.get("from", message.get("role"))
    if role not in ROLES:
        raise BadInput(where, f"role {role!r}", f"one of {', '.join(ROLES)}: Llama 2's format has no other")
    kept = {key: value for key, value in message.items() if key not in ("from", "value")}
    return kept | {"role": ROLES[role], "content": message.get("value", message.get("content"))}


def _with_system(record: Record, messages: Messages) -> Messages:
    system = record.get("system")
    if not system:
        return messages
    return [{"role": "system", "content": record.need("system")}, *messages]


def _from_messages(record: Record) -> Messages:
    messages: Messages = record.need("messages", list)
    return messages


def _from_sharegpt(record: Record) -> Messages:
    turns = [_turn(message, record.where) for message in record.need("conversations", list)]
    return _with_system(record, turns)


def _from_completion(record: Record) -> Messages:
    return conversation(record, "completion" if "completion" in record else "response")


def _from_preference(record: Record) -> Messages:
    """The chosen answer after its prompt; without a prompt it is the whole conversation."""
    return conversation(record, "chosen") if "prompt" in record else record.need("chosen", list)


def _from_alpaca(record: Record) -> Messages:
    asked = record.need("instruction")
    if record.get("input"):
        asked += "\n\n" + record.need("input")
    return _with_system(record, [*as_messages(asked), {"role": "assistant", "content": record.need("output")}])


_READERS: dict[str, Callable[[Record], Messages]] = {
    "messages": _from_messages,
    "sharegpt": _from_sharegpt,
    "preference": _from_preference,
    "prompt-completion": _from_completion,
    "alpaca": _from_alpaca,
}
FORMATS = tuple(_READERS)


def detect(record: Record) -> str:
    """The format of a record by its fields, one of FORMATS. Raises BadInput where they fit none."""
    if "messages" in record:
        return "messages"
    if "conversations" in record:
        return "sharegpt"
    if "chosen" in record:
        return "preference"
    if "prompt" in record and ("completion" in record or "response" in record):
        return "prompt-completion"
    if "instruction" in record and "output" in record:
        return "alpaca"
    expected = "messages; conversations; chosen; prompt and completion; or instruction and output"
    raise BadInput(record.where, f"fields {', '.join(sorted(record)) or 'none'}", expected)


def dialog_of(record: Record, form: str | None = None) -> Messages:
    """The checked messages of a record in the format `form` (None: detected).

    Raises BadInput for a missing field, a role that Llama 2's format does not have (tool, function, ...), a call of a
    tool, and what `check_messages` refuses.
    """
    messages = _READERS[form or detect(record)](record)
    for message in messages:
        if isinstance(message, dict) and message.get("tool_calls"):
            raise BadInput(record.where, "a message with tool_calls", "messages of text alone")
    return check_messages(messages, record.where)


def read_dialogs(records: Iterable[Record], form: str | None = None, on_bad: OnBad | None = None) -> Iterator[Record]:
    """The records with their `messages` as `dialog_of` reads them; other fields pass.

    Raises BadInput for a record that is no dialog, or hands it to `on_bad` and goes on.
    """
    for record in records:
        try:
            record["messages"] = dialog_of(record, form)
        except BadInput as error:
            if on_bad is None:
                raise
            on_bad(error)
            continue
        yield record
