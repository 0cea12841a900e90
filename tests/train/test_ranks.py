"""Two gloo ranks against one: the same update, and checkpoints that either goes on from (design.md §4.3, §5)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch import distributed

from l2.files.errors import L2Error
from l2.files.jsonl import Record
from l2.model.checkpoint import model_tensors, new_model, read_tensors
from l2.tokens.shards import Shard, write_shards
from l2.train.pretrain import Pretraining
from l2.train.ranks import Ranks, cut_weights, gathered, put_back
from l2.train.rehearsal import pretended
from tests.conftest import sentences, small_config
from tests.train.test_resume import pretrain

ONE = [sys.executable, "-m", "cmds.app"]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python", *ONE]


@pytest.fixture(scope="module")
def shards(tokenizer, tmp_path_factory):
    documents = (Record({"text": text}) for text in sentences(300))
    return write_shards(documents, tokenizer, tmp_path_factory.mktemp("shards"), "train", shard_tokens=1500)


def run(ranks: list[str], out: Path, shards: list[Path], stop_at: int = 0, *more: str) -> None:
    """Train in fp32 with batches of 5 windows in micro-batches of 2, which ranks share unequally."""
    more = ("--dtype", "float32", "--batch-tokens", "80", "--micro-batch", "2", "--steps", "12", *more)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*ranks, *pretrain(out, shards, *more)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode == 0) == (not stop_at), done.stderr
    if not stop_at:
        assert done.stdout == f"{out}\n"


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def gap(a: Path, b: Path) -> float:
    one, two = (read_tensors(path / "model.safetensors") for path in (a, b))
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).abs().max()) for name in one)


def test_two_ranks_are_one_and_go_on_from_one_another(shards, tmp_path):
    """Weights to 1e-6 in fp32 after 12 steps: one rank, two, two that went on from one's step 7, and the other way."""
    one, two = tmp_path / "one", tmp_path / "two"
    run(ONE, one, shards)
    run(TWO, two, shards, 0, "--recompute", "none")
    assert gap(one, two) < 1e-6
    for a, b in zip(lines(one), lines(two), strict=True):
        assert a["tokens"] == b["tokens"] and a["loss"] == pytest.approx(b["loss"], abs=1e-6)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-5)
    assert lines(one)[-1]["val_loss"] == pytest.approx(lines(two)[-1]["val_loss"], abs=1e-6)

    for start, ranks in ((one, TWO), (two, ONE)):
        undo(start)
        run(ranks, start, shards)
        assert [line["step"] for line in lines(start)] == list(range(1, 13))
    assert gap(one, two) < 1e-6


def undo(out: Path) -> None:
    """As if the run had been killed after step 7."""
    manifest = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(manifest | {"status": "running"}))
    (out / "model.safetensors").unlink()
    for name in (out / "checkpoints" / "step-000012").iterdir():
        name.unlink()
    (out / "checkpoints" / "step-000012").rmdir()
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-000007"]


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_ranks_deal_out_each_batch_exactly(shards, tokenizer, world):
    """Whatever their number, ranks compute the windows that one would have: none twice, none not at all."""
    opened = [Shard(path) for path in shards]
    alone, among = (Pretraining(opened, 16, batch=5, micro=2, seed=3, bos_id=tokenizer.bos_id) for _ in range(2))
    for step in range(6):
        rows = [row for micro in alone.batch(step) for row in micro.tensors["tokens_BT"].tolist()]
        dealt = [
            [row for micro in among.batch(step, rank, world) for row in micro.tensors["tokens_BT"].tolist()]
            for rank in range(world)
        ]
        assert sorted(row for hand in dealt for row in hand) == sorted(rows)
        assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    assert torch.is_tensor(alone.batch(0)[0].tensors["tokens_BT"])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("world", [1, 4])
def test_weights_are_whole_while_they_are_gathered_and_gone_after(world, tied):
    model = new_model(small_config(62, tie_embeddings=tied))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    with pretended(world) as mesh:
        assert cut_weights(model, mesh) is model
        slices = dict(model.named_parameters())
        held = sum(weight.to_local().numel() for weight in slices.values())
        assert slices.keys() == before.keys() and held <= -(-sum(w.numel() for w in before.values()) // world) + 62
        with gathered(model, torch.bfloat16):
            whole = dict(model.named_parameters())
            for name, weight in before.items():
                assert type(whole[name].data) is torch.Tensor and whole[name].shape == weight.shape, name
                assert whole[name].dtype == torch.bfloat16 and (
                    world > 1 or torch.equal(whole[name], weight.bfloat16())
                )
            assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
            alive = [weakref.ref(weight) for weight in whole.values()]
            del whole, weight
        assert not any(weight() is not None for weight in alive)
        assert all(slices[name] is weight for name, weight in model.named_parameters())


@pytest.mark.parametrize("tied", [False, True])
def test_every_weight_is_put_back(tied):
    one, other = (new_model(small_config(62, tie_embeddings=tied), seed) for seed in (0, 1))
    tensors = model_tensors(one)
    put_back(other, tensors)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    del tensors["model.norm.weight"]
    with pytest.raises(KeyError):
        put_back(other, tensors)


def test_who_is_left_alone_says_so_in_a_sentence():
    """A rank that ends where the others do not listen for failures."""
    program = """if True:
        import os, sys, torch
        from l2.files.errors import L2Error
        from l2.train.ranks import start_ranks
        os.environ["RANK"] = os.environ["LOCAL_RANK"] = "0" if os.fork() else "1"
        try:
            with start_ranks(torch.device("cpu")) as ranks:
                ranks.total([1.0])
                if not ranks.first:
                    raise L2Error("no room")
                ranks.total([1.0])
        except L2Error as error:
            if os.environ["RANK"] == "0":
                print(error)
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | torchrun)
    assert done.stdout == "another rank has ended in the middle; what it said last tells why\n", done.stderr


def test_what_fails_on_one_rank_fails_on_all(monkeypatch):
    """Each says whose failure it was; without one, shares come back in the order of the items."""
    two, hands = Ranks(0, 2, mesh=object()), [([10, 30], None), ([20], None)]  # type: ignore[arg-type]
    monkeypatch.setattr(distributed, "all_gather_object", lambda told, own: told.__setitem__(slice(None), hands))
    assert two.share([1, 2, 3], lambda own: [10 * item for item in own]) == [10, 20, 30]
    hands[1] = (None, "the model gives no numbers")
    with pytest.raises(L2Error, match="rank 1: the model gives no numbers"):
        two.each(lambda: 1)
    assert Ranks().share([1, 2], lambda own: [item + 1 for item in own]) == [2, 3]
