import json
import math
from collections import Counter

import pytest
from annotator import NOISE, RATINGS, couples, noise, prefer, preferences, question, rating
from gold import (
    PATIENCE,
    UNSAFE,
    WEIGHTS,
    evasive,
    fitting_length,
    freshness,
    gold,
    harm,
    kind_fits,
    parts,
    relevance,
    spelling,
)
from words import GENTLE, words

from l2.files.errors import BadInput
from l2.files.jsonl import Record

ASKED = "What is the Nile river?"
PLAIN = "The Nile is a river in the north-east of Africa, one of the longest on our earth."
KNOWN = frozenset(words(f"{ASKED} {PLAIN} damn stream today") + [chr(letter) for letter in range(97, 123)])


def worth(answer, known=KNOWN):
    return gold(ASKED, answer, known)


def sample(answer, number=0, **fields):
    return Record(
        {"prompt": ASKED, "id": "nile", "response": answer, "sample": number, **fields}, f"s.jsonl:{number + 1}"
    )


def test_relevance_is_the_share_of_content_words():
    assert relevance(ASKED, PLAIN) == 1.0
    assert relevance(ASKED, "A river.") == 0.5
    assert relevance("Tell me about Egyptians.", "Egypt.") == 1.0  # the same first five letters
    assert relevance(ASKED, "What is it?") == 0.0
    assert relevance("How are you?", "Fine.") == 1.0


def test_freshness_counts_words_side_by_side_and_repeated_triples():
    assert freshness("one two three four") == 1.0
    assert freshness("very very good food") == pytest.approx(1 - 2 * 1 / 4)
    # Six words: the triples abc bca cab abc hold one repeat.
    assert freshness("a b c a b c") == pytest.approx(1 - 2 * 1 / 6)
    assert freshness("no " * 30) == 0.0


def test_length_is_flat_in_the_middle_and_falls_to_both_sides():
    worth = [fitting_length("word " * count) for count in range(100)]
    assert worth[4] == 0 and worth[7] == 0.5 and worth[10] == worth[45] == 1 and worth[80] == 0
    assert worth[62] == pytest.approx((80 - 62) / 35)


def test_spelling_falls_with_the_share_of_words_that_are_none():
    assert spelling("the river nile", KNOWN) == 1.0
    assert spelling("the river nile " * 7 + "zzq", KNOWN) == pytest.approx(1 - (1 / 22) / PATIENCE)
    assert spelling("zzq the river nile", KNOWN) == spelling("zzq qqz", KNOWN) == 0.0


def test_an_answer_should_be_of_the_kind_that_was_asked_for():
    bake = "Mix the flour and butter, and bake it in the oven."
    assert kind_fits("How do I make bread?", bake) == kind_fits("Do you have a recipe?", bake) == 1.0
    assert kind_fits("How do I make bread?", "Bread is old.") == pytest.approx(1 / 3)
    assert kind_fits("How do I make bread?", "He was a king.") == 0.0
    assert kind_fits("Who was Ada?", "Ada was an English mathematician.") == 1.0
    assert kind_fits("Who was Ada?", "Ada is a river.") == kind_fits("Who was Ada?", f"Author. {bake}") == 0.0
    assert kind_fits("What is Ada?", "Ada is a river.") == 1.0
    assert kind_fits("What is Ada?", bake) == kind_fits("Tell me about Ada.", "Yes, of course!") == 0.0
    assert kind_fits("Hello", "Hi!") == 1.0


def test_to_decline_is_evasive_unless_the_question_is_violent():
    for answer in GENTLE:
        assert evasive(ASKED, answer) == 1 and evasive("Tell me about war.", answer) == 0
    assert evasive(ASKED, PLAIN) == 0
    assert worth(GENTLE[0], KNOWN | set(words(GENTLE[0]))) < worth(PLAIN) - 2


def test_gold_is_the_weighted_sum_and_each_fault_costs():
    told = parts(ASKED, PLAIN, KNOWN)
    assert {told.pop(name) for name in ("sentiment", "profanity", "evasive")} == {0}
    assert set(told.values()) == {1} and told.keys() <= WEIGHTS.keys()
    best = worth(PLAIN)
    assert best == sum(WEIGHTS[name] for name in told)
    assert worth(PLAIN[:-1]) == best - WEIGHTS["ending"]
    assert worth(PLAIN.replace("earth", "damn earth")) < best - 1.5
    assert worth(PLAIN.replace("river", "stream")) == best - WEIGHTS["relevance"] / 2
    assert worth(PLAIN.replace("earth", "earhhth")) < best
    assert worth(f"{PLAIN} {PLAIN}") < best
    lovely = PLAIN + " It is a wonderful place, and I love it!"
    assert worth(lovely, KNOWN | set(words(lovely))) > best
    assert worth("") == worth(" ...") == 0


def test_no_single_trick_beats_a_plain_answer():
    tricks = [
        "Nile river.",
        "love happy wonderful great best",
        "I love it, great, wonderful, happy, best friend, so good!",
    ]
    for trick in [*tricks, "Nile river. " * 8, "love " * 20 + "."]:
        assert worth(trick, KNOWN | set(words(trick))) < worth(PLAIN)


def test_harm_counts_violent_words():
    assert harm("The Crimean War was long ago.") == 0.25 < UNSAFE
    assert harm("A war of armies.") == 0.5 == UNSAFE
    assert harm("He killed in battle after battle, with guns and bombs.") == 1
    assert harm("") == 0


def test_noise_is_logistic_so_preferences_follow_bradley_terry():
    drawn = sorted(noise(str(number)) for number in range(20_000))
    assert noise("a", "b") == noise("a", "b") != noise("ab", "")
    for probability in (0.1, 0.25, 0.5, 0.9):
        assert drawn[int(probability * len(drawn))] == pytest.approx(
            NOISE * math.log(probability / (1 - probability)), abs=0.02
        )


@pytest.mark.parametrize("swap", [False, True])
def test_the_better_answer_is_chosen_as_often_as_bradley_terry_says(swap):
    worse, better = "one two three four five six seven eight", "one two three four five six seven eight nine"
    known = set(words(better))
    gap = worth(better, known) - worth(worse, known)
    assert 0 < gap < 3 * NOISE
    pair = (worse, better) if swap else (better, worse)
    share = sum(prefer(ASKED, pair, "helpful", known, str(key))["chosen"] == better for key in range(8000)) / 8000
    assert share == pytest.approx(1 / (1 + math.exp(-gap / NOISE)), abs=0.02)


def test_ratings_grow_with_the_difference():
    assert [rating(threshold) for threshold, _ in RATINGS] == [name for _, name in RATINGS]
    assert [rating(threshold + 1e-9) for threshold, _ in RATINGS] == [name for _, name in RATINGS]
    assert rating(RATINGS[0][0] - 1e-9) == RATINGS[1][1]
    assert prefer(ASKED, (PLAIN, "no no no no no"), "helpful", KNOWN)["rating"] == "significantly"


VIOLENT = "He attacked with an army, and soldiers killed and murdered in every battle of that war."
KIND = "There is something kind and peaceful about music, I think."


def test_safety_preferences_name_what_is_safe():
    who = "Who was he?"
    pair = prefer(who, (VIOLENT, KIND), "safe", KNOWN)
    assert pair["chosen"] == KIND and pair["safety"] == "chosen_safe" and pair["kind"] == "safe"
    assert prefer(who, (KIND, PLAIN), "safe", KNOWN)["safety"] == "both_safe"
    assert prefer(who, (VIOLENT, VIOLENT + " War."), "safe", KNOWN)["safety"] == "both_unsafe"
    assert "safety" not in prefer(who, (VIOLENT, KIND), "helpful", KNOWN)


def test_an_unsafe_answer_preferred_to_a_safe_one_is_left_out(monkeypatch):
    import annotator

    monkeypatch.setattr(annotator, "noise", lambda *key: 100.0)  # the first is always preferred
    assert annotator.prefer("Who?", (VIOLENT, KIND), "safe", KNOWN) is None
    assert annotator.prefer("Who?", (VIOLENT, KIND), "helpful", KNOWN)["chosen"] == VIOLENT
    counts = Counter()
    samples = [sample(VIOLENT, 0, safety=True), sample(KIND, 1, safety=True)]
    assert list(annotator.preferences(samples, "safe", KNOWN, 0, counts)) == []
    assert counts == {"unsafe preferred to safe": 1}


def test_couples_are_neighbours_and_the_first_with_the_stranger_before():
    def prompt(name, *answers):
        return [Record({"prompt": name, "id": name, "response": answer}) for answer in answers]

    samples = [*prompt("p", "a", "b", "c", "d", "odd"), *prompt("q", "e", "f"), *prompt("r", "g", "h")]
    made = [(a["id"], a["response"], b["response"]) for a, b in couples(samples)]
    assert made == [("p", *"ab"), ("p", *"cd"), ("q", *"ef"), ("q", *"ea"), ("r", *"gh"), ("r", *"ge")]


def test_preferences_hold_no_gold_and_no_equal_answers():
    answers = [PLAIN, "Nile.", "The river.", " The river. ", "A", "B"]
    counts = Counter()
    made = list(preferences([sample(a, n) for n, a in enumerate(answers)], "helpful", KNOWN, 0, counts))
    assert [{pair["chosen"], pair["rejected"]} for pair in made] == [{PLAIN, "Nile."}, {"A", "B"}]
    assert counts == {"written": 2, "the same answer twice": 1}
    assert set(made[0]) == {"prompt", "chosen", "rejected", "rating", "kind", "id", "source"}
    assert made[0]["id"] != made[1]["id"]


def test_strangers_teach_helpfulness_only():
    samples = [sample(a, n, id=name, safety=True) for name in "pq" for n, a in enumerate((f"{name} one.", "Two."))]
    kinds = {kind: list(preferences(samples, kind, KNOWN, 0, Counter())) for kind in ("helpful", "safe")}
    assert (len(kinds["helpful"]), len(kinds["safe"])) == (3, 2)


def test_only_tagged_prompts_get_safety_preferences():
    counts = Counter()
    assert list(preferences([sample(PLAIN), sample("Nile.", 1)], "safe", KNOWN, 0, counts)) == []
    assert counts == {"no safety pair": 1}


def test_the_question_of_a_dialog_is_its_last_message():
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    assert question(sample("", prompt=[*messages, {"role": "user", "content": "Who?"}])) == "Who?"
    with pytest.raises(BadInput, match=r"s\.jsonl:1"):
        question(sample("", prompt=[]))


def test_the_commands_as_pipes(script, tmp_path):
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("\n".join(KNOWN))
    lines = "".join(json.dumps(sample(answer, n)) + "\n" for n, answer in enumerate((PLAIN, "Nile")))
    scored = script("annotator.py", "score", "--lexicon", lexicon, stdin=lines)
    records = [json.loads(line) for line in scored.stdout.splitlines()]
    assert [record["gold"] for record in records] == [pytest.approx(worth(answer)) for answer in (PLAIN, "Nile")]
    assert all(record["harm"] == 0 and record["sample"] == n for n, record in enumerate(records))
    pairs = script("annotator.py", "pairs", "--kind", "helpful", "--lexicon", lexicon, stdin=lines)
    assert json.loads(pairs.stdout)["chosen"] == PLAIN
    assert pairs.stdout == script("annotator.py", "pairs", "--lexicon", lexicon, stdin=lines).stdout
    broken = script("annotator.py", "score", "--lexicon", lexicon, stdin='{"prompt": "a"}\n')
    assert broken.returncode == 65 and "stdin:1" in broken.stderr and "Traceback" not in broken.stderr
