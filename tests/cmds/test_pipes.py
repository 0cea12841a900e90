"""Commands as one pipe: what one writes the next reads, with nothing in between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from l2.tokens.shards import Shard
from tests.conftest import sentences

L2 = f"{sys.executable} -m cmds.app"


def shell(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parent.parent.parent
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", script],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )


def test_filter_into_tokenize(tokenizer, tmp_path):
    (tmp_path / "tok.model").write_bytes(tokenizer.model_bytes)
    texts = [" ".join(sentences(300)[i * 20 : i * 20 + 20]) for i in range(15)]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, texts[3]]))
    done = shell(
        f"cat docs.jsonl | {L2} filter --quality none | {L2} tokenize --tokenizer tok.model --out data -", tmp_path
    )
    assert done.returncode == 0, done.stderr
    shard = Shard(tmp_path / done.stdout.strip())
    assert shard.documents == len(texts) and shard.token_count == sum(len(tokenizer.encode(t)) + 2 for t in texts)


def test_rs_sample_into_sft(model_dir, rm_dir, tmp_path):
    prompts = "".join(json.dumps({"prompt": f"what is {text}", "id": text}) + "\n" for text in sentences(40))
    (tmp_path / "prompts.jsonl").write_text(prompts)
    done = shell(
        f"{L2} rs-sample --model {model_dir} --rm {rm_dir} -k 8 --max-new-tokens 40 --temperature 2 --all all.jsonl "
        f"< prompts.jsonl | {L2} sft --model {model_dir} --data - --out v1 --epochs 1",
        tmp_path,
    )
    assert done.returncode == 0 and done.stdout == "v1\n", done.stderr
    everything = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert len(everything) == 40 * 8 and all("reward" in sample["rewards"] for sample in everything)
    learned = json.loads((tmp_path / "v1/run.json").read_text())
    assert learned["status"] == "finished" and learned["inputs"]["data"][0][0] == "-"


def test_generate_score_and_head(model_dir, rm_dir, tmp_path):
    """The scores of a pipe are the scores of a file, and a reader that has seen enough ends it in silence."""
    prompts = "".join(json.dumps({"prompt": f"what is {text}", "id": text}) + "\n" for text in sentences(30))
    (tmp_path / "prompts.jsonl").write_text(prompts)
    generate = f"{L2} generate --model {model_dir} --max-new-tokens 30 --quiet"
    score = f"{L2} score --rm {rm_dir} --quiet"
    done = shell(
        f"{generate} < prompts.jsonl | tee samples.jsonl | {score} > a; {score} samples.jsonl -o b; cmp a b", tmp_path
    )
    assert done.returncode == 0, done.stderr
    done = shell(f"{score} samples.jsonl | head -n 1", tmp_path)
    assert done.stderr == "" and len(done.stdout.splitlines()) == 1
