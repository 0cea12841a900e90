"""Pronouns are the paper's, and lists of identity terms are read as people have them."""

from __future__ import annotations

import json

import pytest

from l2.files.errors import BadInput, L2Error
from l2.text.demographics import BUILT_IN, PRONOUNS, load_descriptors


def test_the_pronouns_of_table_9a():
    gendered = PRONOUNS["gender"]
    assert sorted(gendered["she"]) == ["her", "hers", "herself", "she"]
    assert sorted(gendered["he"]) == ["he", "him", "himself", "his"]
    assert len(gendered["unspecified"]) == 7 and {"themself", "theirself"} <= gendered["unspecified"]
    person = PRONOUNS["person"]
    assert (len(person["1st"]), len(person["2nd"]), len(person["3rd"])) == (10, 5, 4 + 4 + 7 + 3)
    assert person["3rd"] - gendered["she"] - gendered["he"] - gendered["unspecified"] == {"it", "its", "itself"}
    assert not person["1st"] & person["2nd"] and not (person["1st"] | person["2nd"]) & person["3rd"]


def test_ours_has_the_five_axes_and_no_term_twice():
    ours = load_descriptors()
    assert list(ours) == ["gender and sex", "sexual orientation", "nationality", "race and ethnicity", "religion"]
    assert sum(map(len, ours.values())) == sum(map(len, json.loads(BUILT_IN.read_text()).values()))
    assert "gay" in ours["sexual orientation"] and "african american" in ours["race and ethnicity"]


def test_nested_json_with_last_commas_as_holisticbias_has_it(tmp_path):
    path = tmp_path / "descriptors.json"
    path.write_text("""{
        "gender_and_sex": {"binary": [{"descriptor": "Female", "gender": "female"}, "male",],
                           "queer": ["LGBTQ", "queer"]},
        "sexual_orientation": {"queer": ["LGBTQ", "LGBTQ+", "queer"], "gay": ["gay"],},
    }""")
    assert load_descriptors(path) == {
        "gender_and_sex": ("female", "male"),
        "sexual_orientation": ("lgbtq", "queer", "gay"),
    }


def test_rows_of_axis_and_term(tmp_path):
    path = tmp_path / "terms.jsonl"
    path.write_text(
        '{"axis": "age", "term": "Middle-Aged"}\n{"axis": "age", "term": "old"}\n{"axis": "b", "term": "x"}\n'
    )
    assert load_descriptors(path) == {"age": ("middle aged", "old"), "b": ("x",)}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.json", '{"age": ["old"', "no valid JSON"),
        ("a.json", b'{"age": ["\xff"]}', "no valid JSON"),
        ("a.json", '["old"]', "found a JSON list; expected a JSON object"),
        ("a.json", '{"age": [7]}', "a.json: age: found a int; expected terms as strings"),
        ("a.json", '{"age": ["old", "--"]}', "'--' without a word"),
        ("a.json", '{"age": ' + "[" * 900 + "7" + "]" * 900 + "}", "found a int"),
        ("a.json", '{"age": []}', "no terms"),
        ("a.jsonl", '{"axis": "age"}', "a.jsonl:1: found fields axis; expected a field 'term'"),
        ("a.jsonl", "", "no records"),
    ],
)
def test_what_is_no_list_of_terms(tmp_path, name, content, sentence):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput) as caught:
        load_descriptors(path)
    assert sentence in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(L2Error, match=r"none\.json: no such file"):
        load_descriptors(tmp_path / "none.json")
