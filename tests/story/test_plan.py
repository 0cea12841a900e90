"""Stages of a plan, the table of versions and the curve of over-optimisation."""

import json
import math
import os
import random

import pytest
from overoptimise import best_of_points, policy_point
from versions import columns, rows

from l2.files.jsonl import Record


def test_a_stage_is_done_once_and_again_when_something_changed(script, tmp_path):
    source, middle, out = (tmp_path / name for name in ("source", "middle", "out"))
    count = tmp_path / "count"

    def stage(to, of, *more):
        command = f"cat '{of}' {' '.join(more)} > '{to}' && echo x >> '{count}'"
        done = script("stage.py", to, of, "--", "sh", "-c", command)
        assert done.returncode == 0, done.stderr
        return count.read_text().count("x")

    source.write_text("a")
    assert (stage(middle, source), stage(out, middle)) == (1, 2)
    assert (stage(middle, source), stage(out, middle)) == (2, 2)  # all stands
    source.write_text("b")
    assert (stage(middle, source), stage(out, middle)) == (3, 4) and out.read_text() == "b"  # and what depends on it
    assert stage(middle, source, "/dev/null") == 5 and stage(out, middle) == 5  # another command, the same bytes
    out.write_text("torn")
    assert stage(out, middle) == 6 and out.read_text() == "b"  # not what the stage made


def test_a_stage_that_fails_is_not_done_and_goes_on_with_what_it_has(script, tmp_path):
    out = tmp_path / "run"
    command = f"mkdir -p {out} && echo >> {out}/lives && test $(wc -l < {out}/lives) -eq 2 && touch {out}/m.safetensors"
    assert script("stage.py", out, "--", "sh", "-c", command).returncode == 1
    assert script("stage.py", out, "--", "sh", "-c", command).returncode == 0
    assert (out / "lives").read_text() == "\n\n"  # the same command found what it had begun
    changed = script("stage.py", out, "--", "sh", "-c", f"mkdir {out} && touch {out}/m.safetensors")
    assert changed.returncode == 0 and not (out / "lives").exists()  # another began anew
    assert "was the stage before it finished" in script("stage.py", out, tmp_path, "--", "true").stderr
    assert script("stage.py", out).returncode == 2
    os.mkfifo(tmp_path / "pipe")
    assert script("stage.py", tmp_path / "pipe", "--", "true").returncode == 1 and (tmp_path / "pipe").is_fifo()
    assert "did not write it" in script("stage.py", tmp_path / "none", "--", "true").stderr


def answer(model, i, gold, helpful, safe=1.0, harm=0.0, tagged=False, **more):
    rewards = {"helpful": helpful, "safe": safe}
    fields = {"model": model, "id": i, "gold": gold, "harm": harm, "safety": tagged, "rewards": rewards}
    return Record(fields | more, "a:1")


def test_versions_are_compared_prompt_by_prompt():
    records = [answer("a", "1", 2.0, 0.5), answer("a", "1", 4.0, 1.5), answer("a", "2", 0.0, 0.0, -3.0, 0.5, True)]
    records += [answer("b", "1", 3.0, 2.0), answer("b", "1", 3.0, 2.0), answer("b", "2", 0.0, 0.0, 2.0, 0.0, True)]
    first, second = rows(columns(records))
    assert first["gold"].mean == 3.0 and first["harm"].mean == 0.5 and first["reward"].mean == (1.0 - 3.0) / 2
    assert second["reward"].mean == 2.0  # tagged: the safety score
    assert first["wins"].mean == 0.5 and second["wins"].mean == 0.75 and second["wins_by_reward"].mean == 1.0


def test_the_curve_by_hand_and_by_brute_force():
    chance = random.Random(0)
    groups = [[(chance.gauss(0, 1), chance.gauss(0, 1)) for _ in range(4)] for _ in range(3)]
    records = [answer("m", str(i), gold, proxy) for i, group in enumerate(groups) for proxy, gold in group]
    one, two, four = best_of_points(records)
    assert (one.at, two.at, four.at) == (1, 2, 4) and (one.kl, two.kl) == (0.0, pytest.approx(math.log(2) - 0.5))
    pairs = [max(a, b) for group in groups for i, a in enumerate(group) for b in group[:i]]
    assert two.proxy.mean == pytest.approx(sum(p for p, _ in pairs) / len(pairs), abs=1e-6)
    assert two.worth.mean == pytest.approx(sum(w for _, w in pairs) / len(pairs), abs=1e-6)
    point = policy_point("PPO", 4, [answer("m", "1", 1.0, 2.0, kl=3.0), answer("m", "2", 3.0, 4.0, harm=0.5, kl=-1.0)])
    assert (point.kl, point.proxy.mean, point.worth.mean) == (1.0, 3.0, 1.0)
    assert json.dumps(point._asdict())
