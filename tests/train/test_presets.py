"""Presets against the paper's tables, the variants of their attention, and why each number is what it is."""

from __future__ import annotations

import pytest
import torch

from cmds.app import main
from l2.files.jsonl import Record
from l2.model.checkpoint import new_model
from l2.tokens.shards import write_shards
from l2.train.derivation import derive, suggested_batch, suggested_lr
from l2.train.loop import Settings
from l2.train.presets import ATTENTIONS, PAPERS, PRESETS, find_preset, with_attention
from tests.conftest import sentences

# dim, layers, heads, kv heads, feed-forward, parameters with 32,000 pieces, learning rate: Table 1 and Meta's files
PUBLISHED = {
    "7b": (4096, 32, 32, 32, 11008, 6_738_415_616, 3e-4),
    "13b": (5120, 40, 40, 40, 13824, 13_015_864_320, 3e-4),
    "34b": (8192, 48, 64, 8, 22016, 33_743_970_304, 1.5e-4),
    "70b": (8192, 80, 64, 8, 28672, 68_976_648_192, 1.5e-4),
}


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_presets_are_its_table(name):
    preset, config = PRESETS[name], PRESETS[name].config(32_000)
    shape = (config.dim, config.n_layers, config.n_heads, config.n_kv_heads, config.ffn_dim, config.parameters)
    assert (*shape, preset.lr) == PUBLISHED[name]
    assert (preset.batch_tokens, preset.warmup, config.max_seq_len) == (4 * 2**20, 2000, 4096)
    plan = Settings(steps=1, lr=preset.lr, warmup=1)
    assert (plan.min_lr, plan.weight_decay, plan.grad_clip) == (0.1, 0.1, 1.0)


@pytest.mark.parametrize("kind", ATTENTIONS)
@pytest.mark.parametrize("name", PRESETS)
def test_each_attention_has_the_presets_parameters(name, kind):
    preset = PRESETS[name]
    before = preset.config(32_000)
    config = find_preset(f"{name}-{kind}").config(32_000)
    assert config.n_heads % config.n_kv_heads == 0
    assert (config.n_kv_heads == config.n_heads, config.n_kv_heads == 1) == (kind == "mha", kind == "mqa")
    step = min(256, preset.multiple_of)  # half of one in each of a layer's three matrices
    assert abs(config.parameters - before.parameters) <= config.n_layers * 3 * config.dim * step / 2
    if config.n_kv_heads == before.n_kv_heads:
        assert config == before
    with torch.device("meta"):
        from l2.model.transformer import LanguageModel

        assert sum(w.numel() for w in LanguageModel(config).parameters()) == config.parameters


def test_a_wider_feed_forward_is_the_papers_to_a_tenth():
    """A.2.1: 1.33 times with one group, 1.3 with 8, "to keep a similar overall total parameter count"."""
    before = PRESETS["7b"].config(32_000)
    for kind, times in (("mqa", 1.33), ("gqa", 1.3)):
        assert with_attention(before, kind).ffn_dim / before.ffn_dim == pytest.approx(times, abs=0.13)


def test_a_multi_query_model_reads():
    model = new_model(find_preset("nano-mqa").config(400))
    assert model(torch.zeros(1, 3, dtype=torch.long)).shape == (1, 3, 400)


def test_rules_of_others_say_what_they_say():
    """By hand for 7b, whose layers and last norm have 6,476,271,616; batches, but nano's, are the law's power of 2."""
    config = PRESETS["7b"].config(32_000)
    work = (6 * 6_476_271_616 + 12 * 32 * 4096 * 4096) * 20 * 6_738_415_616
    assert suggested_batch(config) == pytest.approx(0.2920 * work**0.3271)
    assert suggested_lr(config) == pytest.approx(0.003239 - 0.0001395 * 22.5914, rel=1e-4)
    for name, vocab in (("tiny", 4096), ("small", 4096), ("small", 32_000), ("1b", 32_000), ("7b", 32_000)):
        told = suggested_batch(PRESETS[name].config(vocab))
        assert 2**-0.5 <= PRESETS[name].batch_tokens / told <= 2**0.5, name


@pytest.mark.parametrize("name", PRESETS)
def test_a_derivation_names_every_number(name):
    preset = PRESETS[name]
    config = preset.config(32_000)
    plan = Settings(steps=1000, lr=preset.lr, warmup=50)
    shape, parameters, tokens, batch, rate, schedule = derive(name, preset, config, 10**9, plan, 2**20)
    assert f"{config.n_layers} layers of {config.dim:,}" in shape and f"feed-forward {config.ffn_dim:,}: 8/3" in shape
    assert f"parameters: {config.parameters:,} = " in parameters
    assert "1.05e+09 are read" in tokens and f"{20 * config.parameters:.3g}, 20 a parameter" in tokens
    assert ("the paper reads 2e+12" in tokens) == ("the paper's" in rate) == (name in PAPERS)
    assert "1,048,576 tokens a step" in batch and f"{preset.batch_tokens:,}" in batch
    assert f"{preset.lr:g} at the peak" in rate and "warm-up of 50 steps" in schedule


def test_the_command_tells_all_of_it(tokenizer, tmp_path, capsys):
    shards = write_shards((Record({"text": text}) for text in sentences(200)), tokenizer, tmp_path)
    argv = ["pretrain", "--shards", str(shards[0]), "--preset", "tiny-mqa", "--batch-tokens", "1024", "--dry-run"]
    assert main([*argv, "--out", str(tmp_path / "o")]) == 0
    told = capsys.readouterr().err
    for what in ("shape", "parameters", "tokens", "batch", "learning rate", "schedule", "memory", "work"):
        assert f"l2 pretrain: {what}" in told
    assert "for equal parameters (paper A.2.1)" in told and "preset tiny-mqa" in told
    assert not (tmp_path / "o").exists()
