"""Each rule at its bound: the values are worked out by hand, the repetition measures also by brute force."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2.files.errors import UsageError
from l2.text.quality import RULE_SETS, Page, duplicate_ngrams, findings, rules, top_ngram

RULES = {rule.name: rule for rule in rules(RULE_SETS)}

GOOD = """The ferry left the harbour before dawn, and nobody on the quay waved to it. Two children had been told to
count the gulls, which they did with great care. When the sun came up they lost count; the older one began again.

By noon the island was a thin line that only the captain claimed to see. He said that it would rain in the evening,
and that we should have our coats ready. It did not rain. It snowed, a little, out of an almost clear sky."""

FRENCH = """Le bateau quitta le port avant le jour. Personne sur le quai ne lui fit signe, sauf deux enfants qui
comptaient les mouettes. Quand le soleil se leva, ils perdirent le compte. Vers midi, l'île n'était plus qu'une ligne
mince que seul le capitaine prétendait encore voir. Il ne plut pas du tout ce soir-là.""".replace("\n", " ")


def lines(count: int, text: str) -> list[str]:
    return [text.format(i) for i in range(count)]


def first_failing(text: str, table, language=None):
    """(rule, value, threshold) of the first rule that `text` breaks, or None."""
    return next((found[:3] for found in findings(Page(text), table, language) if not found.passes), None)


def ngram_page(n: int, later: int) -> str:
    """100·n words of five letters: one n-gram that comes back `later` times, set apart by words that never do."""
    filler = iter(f"f{i:04d}" for i in range(10_000))
    words: list[str] = []
    for _ in range(later + 1):
        words += [f"g{k:04d}" for k in range(n)] + [next(filler)]
    words += [next(filler) for _ in range(100 * n - len(words))]
    return " ".join(words)


# (rule, a text just inside, one just outside, its value there)
EDGES = [
    ("gopher_words", "word " * 50, "word " * 49, 49),
    ("gopher_words", "w " * 100_000, "w " * 100_001, 100_001),
    ("gopher_mean_word_length", "abc abc", "abc ab", 2.5),
    ("gopher_mean_word_length", "abcdefghij " * 4, "abcdefghij " * 3 + "abcdefghijkl", 10.5),
    ("gopher_hash_ratio", "#word" + " word" * 9, "##word" + " word" * 9, 0.2),
    ("gopher_ellipsis_ratio", "word " * 9 + "end...", "word " * 8 + "this… end...", 0.2),
    ("gopher_bullet_lines", "\n".join([*lines(9, "- point {}"), "end"]), "\n".join(lines(10, "• point {}")), 1.0),
    ("gopher_ellipsis_lines", "\n".join([*lines(3, "x{}..."), *lines(7, "y{}.")]), "\n".join(["x…", "y..."]), 1.0),
    ("gopher_alphabetic_words", "a1 b c d 5", "a b c 4 5", 0.6),
    ("gopher_stop_words", "The cat sat with me", "The the THE cat", 1),
    ("c4_lorem_ipsum", "Lorem, ipsum.", "So: LOREM ipsum dolor.", 1),
    ("c4_curly_brackets", "f(x) }", "f(x) { }", 1),
    ("c4_sentences", "One two three. Is it four? (Five six.)” so.", "One two three four. Is it? five six", 0),
    ("c4_sentences", "A b c d. E f. G.\nH i j k l...", "A b c d. E f.\nG h i j.\nK l m n o p...", 2),
    ("gopher_duplicate_lines", "\n".join("abcdefgaaa"), "\n\n".join("abcdefaaaa"), 0.4),
    ("gopher_duplicate_line_chars", "xx\nxx\nabcdef", "xx\nxx\nabcde", 2 / 9),
    ("gopher_duplicate_paragraphs", "\n\n".join("abcdefgaaa"), "\n \n".join("abcdefaaaa"), 0.4),
    ("gopher_duplicate_paragraph_chars", "xx\n\nxx\n\nabcdef", "xx\n\nxx\n\nabcde", 2 / 9),
    ("fineweb_punctuated_lines", "\n".join(["End.", *"abcdefg"]), "\n".join(["End.", *"abcdefgh"]), 1 / 9),
    ("fineweb_punctuated_lines", "\n\n".join(["«Fin»", "终。", *"abcdef"]), "a.b\nc:d\ne;\nf,", 0),
    ("fineweb_short_lines", f"{'a' * 31}\n{'b' * 30}\nc", f"{'a' * 31}\n{'b' * 30}\n \nc\nd", 0.75),
    ("fineweb_newline_ratio", "a b c d\ne f g\nh i\nj", "a b c d\n\ne f g\n\nh", 0.5),
    ("fineweb_duplicate_line_chars", "x\nx\n" + "a" * 98, "x\n x\n" + "a" * 97, 1 / 99),
    *((f"gopher_top_{n}gram", ngram_page(n, most - 1), ngram_page(n, most), (most + 1) / 100)
      for n, most in [(2, 20), (3, 18), (4, 16)]),
    *((f"gopher_duplicate_{n}grams", ngram_page(n, 20 - n), ngram_page(n, 21 - n), (21 - n) / 100)
      for n in range(5, 11)),
]  # fmt: skip


def test_every_rule_has_an_edge():
    assert {edge[0] for edge in EDGES} == set(RULES)


@pytest.mark.parametrize(("name", "inside", "outside", "value"), EDGES)
def test_a_page_just_inside_passes_and_one_just_outside_fails(name, inside, outside, value):
    rule = RULES[name]
    assert rule.least <= rule.measure(Page(inside)) <= rule.most
    found = rule.measure(Page(outside))
    assert found == pytest.approx(value, abs=1e-12)
    assert not rule.least <= found <= rule.most


def test_the_published_bounds():
    """Gopher §A1.1 and Table A1, C4 §2.2."""
    assert {name: rule.most for name, rule in RULES.items() if "gram" in name or "duplicate" in name} == {
        "fineweb_duplicate_line_chars": 0.01,
        "gopher_duplicate_lines": 0.30, "gopher_duplicate_paragraphs": 0.30,
        "gopher_duplicate_line_chars": 0.20, "gopher_duplicate_paragraph_chars": 0.20,
        "gopher_top_2gram": 0.20, "gopher_top_3gram": 0.18, "gopher_top_4gram": 0.16,
        "gopher_duplicate_5grams": 0.15, "gopher_duplicate_6grams": 0.14, "gopher_duplicate_7grams": 0.13,
        "gopher_duplicate_8grams": 0.12, "gopher_duplicate_9grams": 0.11, "gopher_duplicate_10grams": 0.10,
    }  # fmt: skip
    assert (RULES["gopher_words"].least, RULES["gopher_words"].most) == (50, 100_000)
    assert (RULES["gopher_mean_word_length"].least, RULES["gopher_mean_word_length"].most) == (3, 10)
    assert RULES["gopher_alphabetic_words"].least == 0.8
    assert RULES["fineweb_punctuated_lines"].least == 0.12
    assert (RULES["fineweb_short_lines"].most, RULES["fineweb_newline_ratio"].most) == (0.67, 0.3)


def test_a_good_page_passes_and_the_first_broken_rule_is_named():
    assert first_failing(GOOD, rules(RULE_SETS)) is None
    assert first_failing(GOOD + " {", rules()) == ("c4_curly_brackets", 1, 0)
    assert first_failing("{ too short", rules()) == ("gopher_words", 3, 50)


def test_sets_are_chosen_by_name_and_keep_their_order():
    names = [rule.name for rule in rules(RULE_SETS)]
    for chosen in ((), ("c4",), ("fineweb", "gopher"), RULE_SETS):
        assert [rule.name for rule in rules(chosen)] == [name for name in names if name.startswith(tuple(chosen))]
    assert {rule.name.partition("_")[0] for rule in rules()} == {"gopher", "c4"}
    with pytest.raises(UsageError, match="no set of quality rules 'c5'; there are gopher, c4, fineweb"):
        rules(["c4", "c5"])


def test_findings_tell_every_bound_and_a_rule_is_measured_only_when_asked_for():
    found = {finding.rule: finding for finding in findings(Page(GOOD + " {"), rules(RULE_SETS))}
    assert list(found) == list(RULES)
    assert found["gopher_words"] == ("gopher_words", len(GOOD.split()) + 1, [50, 100_000], True)
    assert found["c4_curly_brackets"] == ("c4_curly_brackets", 1, 0, False)
    assert found["c4_sentences"] == (
        "c4_sentences",
        2,
        3,
        False,
    )  # the last line, with three more, ends in no full stop
    assert ("c4_sentences", 5, 3, True) in list(findings(Page(GOOD), rules()))
    page = Page("{ too short")
    next(findings(page, rules()))
    assert "repeats" not in vars(page)


def test_shorter_pages_pass_where_they_are_asked_for():
    summary = "A thaler is a silver coin that the mints of Europe struck for four hundred years, the first of dollars."
    assert first_failing(summary, rules())[0] == "gopher_words"
    assert first_failing(summary, rules(thresholds={"gopher_words": 20}))[0] == "c4_sentences"
    assert first_failing(summary, rules(thresholds={"gopher_words": 20, "c4_sentences": 1})) is None


def test_english_stop_words_are_not_asked_of_other_languages():
    assert first_failing(FRENCH, rules(), "fr") is None
    for language in ("en", None):
        assert first_failing(FRENCH, rules(), language)[0] == "gopher_stop_words"


@pytest.mark.parametrize("notice", ["JavaScript must be enabled", "read our privacy policy", "this site uses cookies"])
def test_lines_that_c4_drops_hold_no_sentences(notice):
    rule = RULES["c4_sentences"]
    assert rule.measure(Page("One is here. Two is here. Three is here.")) == 3
    assert rule.measure(Page(f"One is here. Two is here. Three is {notice}.")) == 0


@settings(max_examples=300)
@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=40), st.integers(2, 10))
def test_repetition_equals_brute_force(words, n):
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    later, seen = set(), set()
    for i, gram in enumerate(grams):
        if gram in seen:
            later |= set(range(i, i + n))
        seen.add(gram)
    page = Page(" ".join(words))
    total = sum(map(len, words)) or 1
    assert duplicate_ngrams(page, n) == sum(len(words[i]) for i in later) / total

    counts = Counter(grams)
    most = max(counts.values(), default=0)
    best = 0.0
    for gram, count in counts.items():
        if count == most > 1:
            inside = {i + k for i, other in enumerate(grams) if other == gram for k in range(n)}
            best = max(best, sum(len(words[i]) for i in inside) / total)
    assert top_ngram(page, n) == best


@given(st.text(max_size=300))
def test_no_text_breaks_a_measure(text):
    page = Page(text)
    for rule in RULES.values():
        assert rule.measure(page) >= 0
