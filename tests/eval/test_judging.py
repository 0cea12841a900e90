"""How answers are judged: against closed forms, brute force and cases worked by hand."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2.eval.benchmarks.arithmetic import (
    final_answer,
    final_form,
    gsm8k_scores,
    last_boxed,
    last_number,
    math_scores,
    same_expression,
)
from l2.eval.benchmarks.choosing import by, mass, over_prior, per_character, total
from l2.eval.benchmarks.commonsense import letter_after_reasons
from l2.eval.benchmarks.programs import passed_scores
from l2.eval.benchmarks.reading import any_target, best_f1, squad_scores
from l2.eval.benchmarks.suite import averages, measured
from l2.eval.metrics import Estimate, clustered, mean, pass_at_k, word_f1
from l2.eval.stored import differences

ANSWERS = st.lists(st.booleans(), min_size=1, max_size=7)


@given(ANSWERS, st.integers(1, 7))
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(answers, k):
    k = min(k, len(answers))
    draws = list(itertools.combinations(answers, k))
    assert pass_at_k(len(answers), sum(answers), k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_every_k_that_there_are_answers_for():
    assert passed_scores([], {"passed": [True] + [False] * 9}) == {"pass@1": pytest.approx(0.1), "pass@10": 1.0}


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_clusters_of_one_are_no_clusters(values):
    """And whole clusters of equal values are one value each."""
    alone = clustered(values, [str(i) for i in range(len(values))])
    assert alone == mean(values)
    doubled = clustered(values * 2, [str(i) for i in range(len(values))] * 2)
    assert doubled.n == 2 * len(values) and doubled.value == pytest.approx(alone.value)
    assert doubled.stderr == pytest.approx(alone.stderr, abs=1e-12)
    assert alone.stderr == pytest.approx(statistics.stdev(values) / math.sqrt(len(values)), abs=1e-12)


def test_word_f1_as_squad_counts():
    assert word_f1("The cat, sat!", "a cat sat down") == pytest.approx(0.8)
    assert word_f1("cat cat", "cat") == pytest.approx(2 / 3)
    assert (word_f1("the", ""), word_f1("x", ""), word_f1("x", "y")) == (1.0, 0.0, 0.0)


def test_answers_to_questions_of_knowledge_and_of_passages():
    item = {"targets": ["St. Louis", "The Gateway City"]}
    for text, right in [(" St. Louis.\nQ: next", 1), ("gateway  city,", 1), ("the st louis", 1), ("Louis", 0), ("", 0)]:
        assert any_target([text], item) == {"exact_match": right}, text
    assert squad_scores([" unanswerable."], {"targets": [""]}) == {"exact_match": 1.0, "f1": 1.0}
    assert squad_scores(["cat"], {"targets": [""]}) == {"exact_match": 0.0, "f1": 0.0}
    assert squad_scores([" a cat\nmore"], {"targets": ["dog", "cat sat"]})["f1"] == pytest.approx(2 / 3)
    assert best_f1(["x y"], {"targets": ["y z", "y"]}) == {"f1": pytest.approx(2 / 3)}


def test_numbers_and_votes():
    assert [last_number(text) for text in ("The answer is 1,234.", "so 3 and -4.5", "The answer is 7 of 8", "no")] == [
        "1234", "-4.5", "8", "",
    ]  # fmt: skip
    item = {"targets": ["18"]}
    assert gsm8k_scores(["5. The answer is $18.00."], item) == {"exact_match": 1.0}
    several = gsm8k_scores(["is 18", "is 3", "is 18.", ""], item)
    assert several == {"exact_match": 0.5, "maj@4": 1.0}
    letters = letter_after_reasons(["So the answer is (B).", "the answer is c", "none"], {"targets": ["b"]})
    assert letters == {"accuracy": pytest.approx(1 / 3), "maj@3": 1.0}


@pytest.mark.parametrize(
    ("text", "boxed"),
    [(r"\boxed{1} then $\boxed{\frac{1}{2}}$", r"\frac{1}{2}"), (r"\boxed 3$.", "3"), (r"\fbox{a}", "a"), ("x", None),
     (r"\boxed{unclosed", None)],
)  # fmt: skip
def test_the_last_box(text, boxed):
    assert last_boxed(text) == boxed


@pytest.mark.parametrize(
    ("answer", "form"),
    [("x = 5", "5"), (r"$\frac12$", r"\frac{1}{2}"), (r"10 \text{ cm}", "10"), ("1,234 dollars", "1234"),
     ("0,1", "0,1"),
     (r"\sqrt3", r"\sqrt{3}"), (r"\sqrt[3]8", r"\sqrt[3]{8}"), (r"\left(1,2\right)", r"\left(1,2\right)"),
     (r"90^\circ", "90"), (r"\textbf{(B)}", "(B)"), (r"\$5", "5")],
)  # fmt: skip
def test_minerva_s_normal_form(answer, form):
    assert final_form(answer) == form


def test_expressions_are_compared_as_such():
    pytest.importorskip("antlr4")
    assert same_expression(r"\frac{1}{2}", "0.5") and same_expression("x+y", "y+x")
    assert not same_expression("1", "2") and not same_expression("", "") and not same_expression(r"\frac{", "2")
    said = r"So it is. Final Answer: The final answer is $\frac{2}{4}$. I hope it is correct.\n\nProblem:"
    assert final_answer(said) == r"\frac{2}{4}" and final_answer("7") == ""
    assert math_scores([said], {"targets": [r"\frac{1}{2}"]}) == {"exact_match": 1.0}


def test_ways_to_choose():
    item = {"loglikelihoods": [-2.0, -3.0, -2.0], "priors": [-1.0, -5.0, -1.0], "characters": [2, 9, 1], "right": [1]}
    choose = by(sum=total, norm=per_character, prior=over_prior)
    assert choose(item) == {"sum": 0.0, "norm": 1.0, "prior": 1.0}
    assert by(sum=total)({**item, "right": [0]}) == {"sum": 1.0}, "the first of equals"
    weights = [math.exp(value) for value in item["loglikelihoods"]]
    assert mass({**item, "right": [0, 2]})["mc2"] == pytest.approx((weights[0] + weights[2]) / sum(weights))
    assert mass({"loglikelihoods": [-2000.0, -2001.0], "right": [0]})["mc2"] == pytest.approx(1 / (1 + math.exp(-1)))


def test_questions_of_one_id_are_compared_one_by_one():
    ours, theirs = (
        [{"task": "pairs", "id": name, "correct": right} for name, right in zip("ppq", of, strict=True)]
        for of in ((1.0, 0.0, 0.5), (0.0, 0.0, 1.0))
    )
    (found,) = differences(ours, theirs).values()
    assert found == clustered([1.0, 0.0, -0.5], ["p", "p", "q"])
    assert differences(ours, [theirs[2], *theirs[:2]]) == {"correct/difference": found}, "in whatever order"


def test_groups_and_their_mean():
    rows = [("a", 1.0), ("a", 0.0), ("a", 1.0), ("b", 0.0), ("b", 0.0)]
    items = [{"groups": [g], "cluster": str(i), "scores": {"acc": v}} for i, (g, v) in enumerate(rows)]
    micro, macro = measured(items, macro=False), measured(items, macro=True)
    assert micro["acc"].value == pytest.approx(0.4) and macro["acc"].value == pytest.approx(1 / 3)
    assert micro["acc/a"] == macro["acc/a"] == mean([1.0, 0.0, 1.0])
    assert macro["acc"].stderr == pytest.approx(mean([1.0, 0.0, 1.0]).stderr / 2)


def test_averages_of_table_3():
    """Llama 2 7B's own numbers (paper Tables 3, 22, 23)."""
    parts = {"nq": {"exact_match": 25.7}, "triviaqa": {"exact_match": 72.1}, "squad": {"exact_match": 67.2},
             "quac": {"f1": 39.4}, "gsm8k": {"exact_match": 14.6}}  # fmt: skip
    values = {name: {metric: Estimate(v, 1.0, 9) for metric, v in metrics.items()} for name, metrics in parts.items()}
    found = averages(values)
    assert set(found) == {"World knowledge"}
    assert found["World knowledge"] == Estimate(pytest.approx(48.9), pytest.approx(2**-0.5), 18)
    found = averages(values | {"boolq": {"accuracy": Estimate(77.4, None, 9)}})
    assert found["Reading comprehension"] == Estimate(pytest.approx(61.3, abs=0.05), None, 27)
