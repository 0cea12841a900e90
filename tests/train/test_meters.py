"""Carbon, work, memory and spikes against the paper, by-hand sums and what torch really keeps."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from l2.files.errors import L2Error
from l2.model.checkpoint import new_model
from l2.train.loop import Meters, Micro, Settings, prepare, update
from l2.train.meter import Energy, Rapl, carbon
from l2.train.plan import memory
from l2.train.presets import PRESETS
from l2.train.pretrain import packed_loss
from l2.train.ranks import Ranks
from l2.train.rehearsal import rehearse
from l2.train.spikes import LEAST, Usual
from tests.conftest import small_config
from tests.train.test_fused import packed


def test_table_2_comes_out_of_its_own_inputs():
    rows = [(184_320, 400, 31.22), (368_640, 400, 62.44), (1_038_336, 350, 153.90), (1_720_320, 400, 291.42)]
    for hours, watts, tonnes in rows:  # cut, not rounded, to two places
        assert math.floor(carbon(hours * watts * 3600.0) / 1e4) / 100 == tonnes
    assert carbon(3.6e6, pue=1.0, grams_per_kwh=1.0) == 1.0


def test_both_ways_to_count_work():
    """7B at 4k: 6 · (P - V·D) + 6·L·D·T, and 6·P + 12·L·D·T."""
    config = PRESETS["7b"].config(32_000)
    assert config.flops_per_token(4096) == 6 * (6_738_415_616 - 32_000 * 4096) + 6 * 32 * 4096 * 4096
    assert config.common_flops_per_token(4096) == 6 * 6_738_415_616 + 12 * 32 * 4096 * 4096


def test_a_processors_meter_may_start_again(tmp_path):
    (tmp_path / "max_energy_range_uj").write_text("1000000\n")
    counter = tmp_path / "energy_uj"
    counter.write_text("900000\n")
    read = Rapl([counter])
    counter.write_text("300000\n")
    assert read() == pytest.approx(0.4)


def test_energy_is_that_of_all_ranks():
    """Each of 8 on a machine reads the same meter and has an eighth of it; in the log is the sum over ranks."""
    energy = Energy(torch.device("cpu"))
    energy._read, energy._start = lambda: 30.0, 10.0

    class Eight(Ranks):
        def total(self, values):
            return [8 * value for value in values]

    line = Meters(PRESETS["nano"].config(400), 1e12, energy, Eight(), before=5.0).line(256, 0.5, 256)
    assert line["joules"] == 5.0 + 8 * 20.0 and line["tokens_per_s"] == 512.0


@pytest.mark.parametrize("local", [1, 8])
def test_a_machines_meter_is_shared_by_its_ranks(tmp_path, monkeypatch, local):
    (tmp_path / "intel-rapl:0").mkdir()
    (tmp_path / "intel-rapl:0" / "max_energy_range_uj").write_text("100000000\n")
    counter = tmp_path / "intel-rapl:0" / "energy_uj"
    counter.write_text("0\n")
    monkeypatch.setattr("l2.train.meter.RAPL", tmp_path)
    energy = Energy(torch.device("cpu"), local)
    counter.write_text("80000000\n")
    assert energy.source == "rapl" and energy.joules() == pytest.approx(80 / local)


def test_z_is_the_textbooks():
    usual, values = Usual(), [float(i * 7919 % 31) for i in range(200)]
    for value in values[: LEAST - 1]:
        assert usual.z(99.0) == 0.0
        usual.add(value)
    for value in values[LEAST - 1 :]:
        usual.add(value)
    last = values[-128:]
    assert usual.z(40.0) == pytest.approx((40 - statistics.mean(last)) / statistics.pstdev(last))
    assert Usual([1.0] * 50).z(2.0) == 0.0


class Scripted:
    """An objective that is the same in each step, but for one that is scaled."""

    def __init__(self, scales: dict[int, float]) -> None:
        self.scales, self.scale = scales, 1.0

    def batch(self, step: int, rank: int = 0, world: int = 1) -> list[Micro]:
        self.scale = self.scales.get(step, 1.0 + step % 3 / 100)
        return [Micro(packed(1, 8, [8], 61, 0), 8.0, 8)]

    def validation(self) -> list[Micro]:
        return []

    def sums(self, model, tensors):
        return {name: value * self.scale for name, value in packed_loss(model, tensors).items()}


@pytest.mark.parametrize("policy", ["warn", "skip", "stop"])
def test_a_spike_is_told_skipped_or_stopped_at(policy):
    plan = Settings(steps=60, lr=1e-5, warmup=1, on_spike=policy)
    objective = Scripted({50: 1000.0})
    model = new_model(small_config(61))
    training = prepare(model, objective, plan)
    for _ in range(50):
        assert "spike" not in update(objective, training, plan)
    before = model.lm_head.weight.detach().clone()
    if policy == "stop":
        with pytest.raises(L2Error, match=r"step 51: a spike: loss .* standard deviations.*--on-spike"):
            update(objective, training, plan)
    else:
        line = update(objective, training, plan)
        assert line["spike"] == {"warn": "warned", "skip": "skipped"}[policy] and line["loss_z"] > 6
    assert torch.equal(before, model.lm_head.weight) == (policy != "warn")


def test_what_lasts_is_not_skipped_for_ever():
    """A loss that grows tenfold and stays there, as when the data change: a few steps are skipped, then it is usual."""
    plan = Settings(steps=200, lr=1e-5, warmup=1, on_spike="skip")
    objective = Scripted(dict.fromkeys(range(50, 200), 10.0))
    training = prepare(new_model(small_config(61)), objective, plan)
    skipped = [step for step in range(100) if "spike" in update(objective, training, plan)]
    assert skipped and skipped == list(range(50, 50 + len(skipped))) and len(skipped) < 8


def test_a_loss_that_is_no_number_is_a_sentence():
    plan = Settings(steps=60, lr=1e-3, warmup=1)
    objective = Scripted({0: float("nan")})
    with pytest.raises(L2Error, match=r"step 1: the loss is nan; try a lower --lr \(now 0.001\)"):
        update(objective, prepare(new_model(small_config(61)), objective, plan), plan)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_memory_is_what_torch_keeps(dtype, recompute):
    """What autograd saves between forward and backward, each storage once, against the count: within a quarter."""
    config = small_config(400, dim=64, n_layers=6, n_heads=8, ffn_dim=192, max_seq_len=256)
    plan = Settings(steps=9, lr=1e-3, warmup=1, dtype=dtype, recompute=recompute)
    objective = Scripted({})
    training = prepare(new_model(config), objective, plan)
    weights = {w.untyped_storage().data_ptr() for w in training.compute.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tensors = packed(2, 256, [100], 400, 0)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = training.compute(tensors)["loss"]
    counted = memory(config, dtype, 512, recompute=recompute)
    once = 0 if recompute == "none" else memory(config, dtype, 512).activations // config.n_layers
    assert sum(kept.values()) == pytest.approx(counted.activations - once + counted.logits, rel=0.25)
    del loss
    state = 16 * config.parameters
    assert counted.state == state and memory(config, dtype, 512, ranks=4).state == state // 4


def test_a_rehearsal_cuts_the_state_into_equal_slices():
    """Of 8 ranks each holds an eighth of the fp32 weights and of AdamW's two means; a layer is gathered in bf16."""
    config = small_config(400, dim=64, n_layers=3, n_heads=8, ffn_dim=192, max_seq_len=64)
    told: list[tuple[float, float | None]] = []
    held = rehearse(config, torch.bfloat16, 1, 8, "full", lambda done, total, note: told.append((done, total)))
    assert told == [(n, 6) for n in range(1, 7)]  # three layers, forwards and backwards
    assert held["Sharded Param"] == 4 * config.parameters // 8
    steps = 4 * len(list(new_model(config).parameters()))
    assert held["OptState"] == 8 * config.parameters // 8 + steps
    assert 0 < held["Unsharded Param"] < 2 * config.parameters
    assert held["Total"] == sum(size for kind, size in held.items() if kind != "Total")
