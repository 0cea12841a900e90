"""Constraints for Ghost Attention: hobbies, public figures, languages (paper §3.3, A.3.5). The lists are ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from l2.files.jsonl import Record
from l2.generate.engine import Sampler, Sampling, generate, prompt_key
from l2.tokens.chat import TAGS, as_messages, encode_prompt
from l2.tokens.tokenizer import Tokenizer

Constraint = dict[str, Any]


class Category(NamedTuple):
    """One kind of constraint: how it is said at length and tersely, how a later turn asks for it, and some of it."""

    name: str
    instruction: str
    short: str
    question: str | None
    wanted: str  # what a model is asked for, to write more of it
    known: tuple[str, ...]


HOBBY = Category(
    "hobby",
    "You enjoy {}.",
    "Hobby: {}.",
    "What do you like to do in your free time?",
    "Name one hobby. Answer with the hobby alone.",
    ("tennis", "chess", "gardening", "painting", "cooking", "hiking", "pottery", "sailing", "knitting",
     "photography", "swimming", "origami", "climbing", "dancing", "fishing", "juggling", "cycling", "baking", "surfing",
     "calligraphy"),
)  # fmt: skip
FIGURE = Category(
    "figure",
    "Act as {}.",
    "Figure: {}.",
    "Who are you?",
    "Name one famous person of history. Answer with the name alone.",
    ("Napoleon", "Marie Curie", "Isaac Newton", "Cleopatra", "Mozart", "Florence Nightingale", "Leonardo da Vinci",
     "Jane Austen", "Charles Darwin", "Joan of Arc", "Aristotle", "Ada Lovelace", "Galileo", "Frida Kahlo", "Confucius",
     "Amelia Earhart", "Shakespeare", "Queen Victoria", "Beethoven", "Marco Polo"),
)  # fmt: skip
LANGUAGE = Category(
    "language",
    "Always answer in {}.",
    "Language: {}.",
    None,  # it shows in every answer
    "Name one language that people speak. Answer with the language alone.",
    ("French", "German", "Spanish", "Italian", "Portuguese", "Dutch", "Swedish", "Polish", "Latin", "Turkish"),
)  # fmt: skip
CATEGORIES = (HOBBY, FIGURE, LANGUAGE)

LONGEST = 4  # words of an attribute that a model wrote


def constraint(category: Category, value: str) -> Constraint:
    """The constraint record of one hobby, figure or language; `recall` says how a later turn can ask for it."""
    made: Constraint = {
        "category": category.name,
        "instruction": category.instruction.format(value),
        "short": category.short.format(value),
    }
    if category.question is not None:
        made |= {"kind": "recall", "question": category.question, "expect": value}
    return made


def built_in() -> list[Record]:
    """The constraints of this module, as records."""
    made = [constraint(category, value) for category in CATEGORIES for value in category.known]
    return [Record(one, f"constraint {number}") for number, one in enumerate(made, 1)]


Ask = Callable[[Sequence[str]], list[str]]


def asker(model: Sampler, tokenizer: Tokenizer, sampling: Sampling, *, batch_size: int = 64) -> Ask:
    """A function from user messages to the model's answers; the same message is answered anew each time it occurs."""

    def ask(messages: Sequence[str]) -> list[str]:
        rows = [encode_prompt(tokenizer, as_messages(message)) for message in messages]
        keys = [prompt_key(f"grow {number} {message}") for number, message in enumerate(messages)]
        answers = generate(model, rows, keys, sampling, eos_id=tokenizer.eos_id, batch_size=batch_size)
        return [tokenizer.decode(answer.tokens) if answer.finish == "stop" else "" for (answer,) in answers]

    return ask


def grow(ask: Ask, count: int) -> list[Record]:
    """Constraints of up to `count` more values of each category, which a model comes up with.

    An answer counts that is new, one line, at most four words, and forges no chat tag (the paper's lists came from the
    model likewise).
    """
    made = []
    for category in CATEGORIES:
        known = {value.casefold() for value in category.known}
        for answer in ask([category.wanted] * count):
            value = answer.strip().rstrip(".!").strip()
            plain = value and "\n" not in value and not any(tag in value for tag in TAGS)
            if plain and len(value.split()) <= LONGEST and value.casefold() not in known:
                known.add(value.casefold())
                made.append(constraint(category, value))
    return [Record(one, f"grown {number}") for number, one in enumerate(made, 1)]
