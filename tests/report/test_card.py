"""The model card: YAML that another library reads, a table for every run it needed, and no card of others replaced."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from l2.files.errors import UsageError
from l2.report.card import MARK, card, own, write_card
from l2.report.gather import gather
from l2.report.svg import clean
from l2.train.meter import carbon
from tests.report.conftest import HOSTILE, lines, make_run, result, weights


def front_matter(text: str) -> dict:
    head, _, rest = text.removeprefix("---\n").partition("\n---\n")
    assert text.startswith("---\n") and MARK.match(rest)
    return yaml.safe_load(head)


def test_the_front_matter_is_what_the_hub_reads(world):
    with open(world / "results.jsonl", "a") as f:
        f.write(json.dumps(result(f"odd: [{HOSTILE}", "m: {", 0.25, "sft")) + "\n")
    found = gather([world.dir])
    meta = front_matter(write_card(str(world / "sft"), found).read_text())
    assert meta["library_name"] == "transformers" and meta["pipeline_tag"] == "text-generation"
    assert "license" not in meta, "nobody has said which"
    (index,) = meta["model-index"]
    assert index["name"] == "sft"
    values = {(r["dataset"]["name"], r["metrics"][0]["type"]): r["metrics"][0]["value"] for r in index["results"]}
    assert values[("text", "bits_per_byte")] == 2.0 and values[("math", "exact_match")] == 0.3
    assert values[(f"odd: [{clean(HOSTILE)}", "m: {")] == 0.25
    assert all(set(r) == {"task", "dataset", "metrics"} for r in index["results"])


def test_a_reward_model_is_a_classifier(world):
    meta = front_matter(card(next(r for r in gather([world.dir]).runs if r.name == "rm"), gather([world.dir])))
    assert meta["pipeline_tag"] == "text-classification" and "reward-model" in meta["tags"]


def test_the_fields_of_table_52_are_there_and_filled(world):
    found = gather([world.dir])
    text = card(next(run for run in found.runs if run.name == "sft"), found)
    for field in (
        "Model developers", "Variations", "Input", "Output", "Model architecture", "Model dates", "Status", "License",
        "Where to send comments", "Intended use cases", "Out-of-scope uses", "Training factors", "Carbon footprint",
        "Overview", "Data freshness", "Results", "Limitations",
    ):  # fmt: skip
        assert len(re.findall(rf"^\*\*{re.escape(field)}\.\*\* ", text, re.M)) == 1, field
    assert "2 layers, 4 heads with 2 key/value heads" in text and "base (pretrain) → sft (sft)" in text
    assert "| base | pretrain | 1 × cpu | float32 | 120 |" in text and "| ppo |" not in text
    spent = 43200 + 360 * 8
    assert f"2 device hours, {spent / 3.6e6:.4g} kWh, {carbon(spent):.4g} gCO₂eq" in text
    assert f"| sft, data | gone.jsonl | `{'0' * 64}` |" in text


def test_what_the_judges_learned_from_is_training_data_too(tmp_path, tokenizer):
    sft, rm = weights(tmp_path / "sft", tokenizer, 0), weights(tmp_path / "rm", tokenizer, 1, scalar=True)
    make_run(tmp_path / "sft", "sft", {"data": [["dialogs.jsonl", "a"]]}, [], 1)
    make_run(tmp_path / "rm", "rm-train", {"model": sft, "data": [["preferences.jsonl", "b"]]}, [], 2)
    make_run(tmp_path / "ppo", "ppo", {"model": sft, "helpful_rm": rm, "prompts": [["prompts.jsonl", "c"]]}, [], 3)
    weights(tmp_path / "ppo", tokenizer, 2)
    ways = [result("samples", "self_bleu", 0.1, "ppo", temperature=heat) for heat in (0.3, 1.3)]
    lines(tmp_path / "results.jsonl", ways)
    found = gather([tmp_path])
    text = card(next(run for run in found.runs if run.name == "ppo"), found)
    for row in (
        "sft, data | dialogs.jsonl | `a`",
        "rm, data | preferences.jsonl | `b`",
        "ppo, prompts | prompts.jsonl",
    ):
        assert f"| {row}" in text
    assert "| samples | self\\_bleu, temperature 0.3 | 0.100" in text and "temperature 1.3" in text


def test_only_its_own_card_is_replaced(world):
    found = gather([world.dir])
    path = write_card(str(world / "sft"), found)
    write_card(str(world / "sft"), found)  # as it was written: replaced
    path.write_text(path.read_text().replace("Status", "STATUS"))
    assert not own(path.read_text())
    for text in (path.read_text(), "# Mine\n", "\udcff".encode("utf-8", "surrogateescape").decode("latin-1")):
        path.write_text(text)
        with pytest.raises(UsageError, match="not written by l2 report, or changed since"):
            write_card(str(world / "sft"), found)
        assert path.read_text() == text
    write_card(str(world / "sft"), found, overwrite=True)
    assert own(path.read_text())


def test_no_card_without_a_finished_run(world, tmp_path):
    with pytest.raises(UsageError, match="not finished"):
        write_card(str(world / "ppo"), gather([world.dir]))
    with pytest.raises(UsageError, match="no run"):
        write_card(str(tmp_path), gather([world.dir]))
