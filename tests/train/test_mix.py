"""The mix of sources: how often each window is read, in which order, and what people are told of it."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2.files.errors import UsageError
from l2.files.jsonl import Record
from l2.files.manifest import read_manifest
from l2.tokens.shards import Shard, write_shards
from l2.train.mix import Source, parse_mix, source_of_each
from l2.train.order import MixedOrder, step_items
from l2.train.pretrain import Pretraining
from tests.conftest import sentences

SOURCES = st.lists(st.tuples(st.integers(1, 30), st.sampled_from([0.5, 0.64, 1.0, 1.1, 2.0, 2.45, 3.0])), min_size=1)


@settings(deadline=None)
@given(SOURCES, st.integers(1, 9), st.integers(0, 5), st.integers(1, 3))
def test_windows_are_seen_as_often_as_their_epochs_say(sources, batch, seed, passes):
    """Counted one by one: in each pass, and over the first few, every window floor or ceil of its source's epochs."""
    sizes, epochs = zip(*sources, strict=True)
    visits = [round(n * e) for n, e in sources]
    one_pass = sum(visits)
    if not one_pass:
        return
    order = MixedOrder(sizes, epochs, seed)
    steps = -(-passes * one_pass // batch)
    row = [i for step in range(steps) for i in order.step_items(step, batch)]
    spans = [row[p * one_pass : (p + 1) * one_pass] for p in range(passes)]
    for span, times in [(row[: passes * one_pass], passes), *((span, 1) for span in spans)]:
        seen, first = Counter(span), 0
        for size, visited in zip(sizes, visits, strict=True):
            counts = [seen[i] for i in range(first, first + size)]
            assert sum(counts) == times * visited
            assert min(counts) >= times * visited // size and max(counts) <= -(-times * visited // size)
            first += size
    # the plan is what happens, in the middle of a pass too
    ends = np.cumsum(sizes)
    counted = np.bincount(np.searchsorted(ends, row, side="right"), minlength=len(sizes))
    assert order.visits_in(len(row)) == counted.tolist()


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 5))
def test_without_a_mix_the_order_is_that_of_epochs(items, batch, seed):
    order = MixedOrder([items], [1.0], seed)
    for step in range(2 * items):
        assert order.step_items(step, batch) == step_items(step, batch, items, seed)


@settings(deadline=None)
@given(SOURCES, st.integers(1, 4), st.integers(0, 5))
def test_the_order_is_a_function_of_seed_and_step(sources, batch, seed):
    """Steps asked for backwards, of a new object, with another batch: the same row. Another seed: another."""
    sizes, epochs = zip(*sources, strict=True)
    if not sum(round(n * e) for n, e in sources):
        return
    there = [MixedOrder(sizes, epochs, seed).step_items(step, batch) for step in range(12)]
    order = MixedOrder(sizes, epochs, seed)
    assert [order.step_items(step, batch) for step in reversed(range(12))] == there[::-1]
    twice = [i for step in range(6) for i in order.step_items(step, 2 * batch)]
    assert twice == [i for row in there for i in row]


def test_a_part_of_a_source_is_a_sample_and_another_seed_another():
    halves = [MixedOrder([1000], [0.5], seed).step_items(0, 500) for seed in (0, 1)]
    assert set(halves[0]) != set(halves[1])
    for half in halves:  # 5 standard deviations of the mean of a sample of half the numbers to 999
        assert abs(np.mean(half) - 499.5) < 5 * math.sqrt(1000**2 / 12 / 500 / 2)


def test_patterns_take_shards_by_name_and_the_first_match_wins():
    mix = parse_mix("wiki-*=2.45, web*=1")
    assert mix == [Source("wiki-*", 2.45), Source("web*", 1.0)]
    paths = [Path("wiki/web-00000.bin"), Path("a/wiki-00000.bin")]
    assert source_of_each(mix, paths) == [1, 0]
    with pytest.raises(UsageError, match=r"web/books-00000.bin matches none of wiki-\*, web\*"):
        source_of_each(mix, [*paths, Path("web/books-00000.bin")])
    with pytest.raises(UsageError, match=r"nothing is left for web\*"):
        source_of_each(parse_mix("*=1,web*=2"), paths)


@pytest.mark.parametrize("text", ["", "wiki", "wiki=", "=2", "wiki=0", "wiki=-1", "wiki=nan", "wiki=inf", "a=1,,b=1"])
def test_a_mix_that_says_nothing(text):
    with pytest.raises(UsageError, match="PATTERN=EPOCHS"):
        parse_mix(text)


@pytest.fixture(scope="module")
def shards(tokenizer, tmp_path_factory) -> list[Shard]:
    """web-0, wiki-0, wiki-1, web-1: the sources' shards stand mixed."""
    out = tmp_path_factory.mktemp("mix")
    texts = sentences(300)
    for name, some in (("wiki", texts[:60]), ("web", texts[60:])):
        write_shards((Record({"text": text}) for text in some), tokenizer, out, name, shard_tokens=400)
    found = sorted(out.glob("*.bin"))
    assert len(found) > 3
    return [Shard(path) for path in found[::2] + found[1::2]]


def test_each_token_is_a_target_as_often_as_its_epochs_say(shards, tokenizer):
    """Counted over one pass of 'wiki 2, web 1' against the shards' own tokens; the plan says the same."""
    sources = parse_mix("wiki*=2,web*=1")
    found = np.zeros(380, dtype=int)
    objective = Pretraining(shards, 16, 1, 1, 3, tokenizer.bos_id, sources=sources)
    steps = objective.epoch_steps
    for step in range(steps):
        targets = objective.batch(step)[0].tensors["targets_BT"].numpy()
        found += np.bincount(targets[targets >= 0], minlength=380)
    expected = np.zeros(380, dtype=int)
    targets_of = {"wiki": 0, "web": 0}
    for shard in shards:
        name = shard.path.name.split("-")[0]
        times = {"wiki": 2, "web": 1}[name]
        tokens = np.asarray(shard.tokens)
        expected += times * np.bincount(tokens[tokens != tokenizer.bos_id], minlength=380)
        targets_of[name] += len(tokens) - 1
    assert (found == expected).all()
    wiki, web = objective.planned(steps)
    assert (wiki.tokens, web.tokens) == (2 * targets_of["wiki"], targets_of["web"])
    assert (wiki.epochs, web.epochs) == (2.0, 1.0) and wiki.share + web.share == pytest.approx(1)
    assert wiki.share == pytest.approx(wiki.tokens / (wiki.tokens + web.tokens))


def test_micro_batches_and_a_resume_leave_the_order_alone(shards, tokenizer):
    sources = parse_mix("wiki*=2.45,web*=0.64")
    whole = Pretraining(shards, 16, 6, 6, 0, tokenizer.bos_id, sources=sources)
    resumed = Pretraining(shards, 16, 6, 4, 0, tokenizer.bos_id, sources=sources)
    for step in range(whole.epoch_steps // 2, whole.epoch_steps + 3):  # into the second pass
        rows = [micro.tensors["tokens_BT"] for micro in resumed.batch(step)]
        assert (np.concatenate(rows) == whole.batch(step)[0].tensors["tokens_BT"].numpy()).all()


def test_too_little_of_a_source_is_refused(shards, tokenizer):
    with pytest.raises(UsageError, match=r"0.0001 epochs of the \d+ windows of wiki\* are none"):
        Pretraining(shards, 16, 1, 1, 0, tokenizer.bos_id, sources=parse_mix("wiki*=0.0001,web*=1"))


def test_the_command_prints_its_plan_and_refuses_another_mix(shards, tmp_path):
    def pretrain(*more: str) -> subprocess.CompletedProcess[str]:
        argv = ["pretrain", "--shards", *(str(shard.path) for shard in shards), "--out", str(tmp_path / "run")]
        options = ["--steps", "2", "--seq-len", "16", "--batch-tokens", "64", "--dtype", "float32"]
        return subprocess.run(
            [sys.executable, "-m", "cmds.app", *argv, *options, *more], capture_output=True, text=True
        )

    done = pretrain("--mix", "wiki*=2,web*=1")
    assert done.returncode == 0, done.stderr
    assert "mix: wiki*: " in done.stderr and "mix: web*: " in done.stderr
    manifest = read_manifest(tmp_path / "run")
    assert manifest is not None and manifest["settings"]["mix"] == "wiki*=2,web*=1"
    other = pretrain("--mix", "wiki*=3,web*=1")
    assert other.returncode == 2 and "mix: wiki*=2,web*=1 there, wiki*=3,web*=1 asked" in other.stderr
    assert "mix: wiki*=2,web*=1 there, None asked" in pretrain().stderr
