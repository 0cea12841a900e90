"""Every command that the README, docs/ and each --help show is run, by bash, in a small world of the names they use.

An `l2` before all others on the PATH makes each call small (SMALL) and hands it to tests/warm.py.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from cmds.app import COMMANDS, main, typer_command
from l2.files.jsonl import write_records
from l2.model.checkpoint import new_model, save_model, scalar_from
from tests.bench.shapes import make
from tests.cmds.test_distill_command import save_talker
from tests.conftest import small_config

ROOT = Path(__file__).parent.parent
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# The last value of an option counts, so these make a call small. What is not l2 does as much as the example needs.
SMALL = {
    "tok-train": "--vocab-size 400",
    "pretrain": "--steps 2 --seq-len 32 --batch-tokens 128",
    "sft": "--epochs 1 --batch 4",
    "rm-train": "--epochs 1 --batch 4",
    "ppo": "--iterations 1 --batch 16 --mini-batch 16 --max-new-tokens 12",
}
L2 = """#!/bin/bash
command=$1; shift
case $command in
{small}
esac
case "$command $*" in
    *--help*) ;;
    *"--preset 7b"* | *"--preset 70b"*) set -- "$@" --preset nano --dry-run ;;
    annotate*--judge*) ;;
    annotate*) # until Ctrl-C
        timeout -s INT 4 {call} annotate "$@" | grep -q "^http://127.0.0.1:"; exit ;;
esac
exec {call} "$command" "$@"
"""
OTHERS = {
    "torchrun": 'while [ "$1" != l2 ]; do shift; done; exec "$@"',
    "sbatch": 'for SLURM_ARRAY_TASK_ID in 1 2; do export SLURM_ARRAY_TASK_ID; bash -c "${@: -1}" || exit; done',
    "parallel": 'exec xargs -I{} "$@"',
}


def blocks(path: Path) -> list[str]:
    """The bash blocks of a Markdown file, but those that start a script of shell/ (which CI or their own tests do)."""
    found = re.findall(r"^```bash\n(.*?)^```", path.read_text(), re.M | re.S)
    return [block for block in found if not re.search(r"^bash shell/", block, re.M)]


def cells(path: Path) -> list[str]:
    """The last cell of each row of a table that is a command of l2."""
    return re.findall(r"\| `(l2 [^`|]*)` \|$", path.read_text(), re.M)


def of_help(name: str) -> list[str]:
    """The examples that the help of a command ends with."""
    return [" ".join(part.split()) for part in (typer_command(name).help or "").split("Example: ")[1:]]


EXAMPLES = [
    *(pytest.param(one, id=f"{path.name} {one.strip().splitlines()[0][:60]}")
      for path in TEXTS for one in [*blocks(path), *cells(path)]),
    *(pytest.param(one, id=f"help {one[:60]}") for name in COMMANDS for one in of_help(name)),
]  # fmt: skip


def outputs(example: str) -> list[str]:
    """What an example writes into its world, which must not be there before; /dev/null is none of it."""
    found = re.findall(r"(?:--out|-o|--work) ([\w./-]+)", example.replace("set -o pipefail", ""))
    return [name for name in found if name.strip("-./") and not name.startswith("/")]


@pytest.fixture(scope="module")
def l2(tmp_path_factory):
    """A folder for the PATH with `l2` and stubs of what it is shown with."""
    folder = tmp_path_factory.mktemp("bin")
    at = folder / "socket"
    serve = [sys.executable, "-m", "tests.warm", at]
    server = subprocess.Popen(serve, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert server.stdout is not None and server.stdout.readline() == "ready\n"
    call = f"{sys.executable} -I -S {ROOT / 'tests/warm.py'} {at}"
    small = "\n".join(f'    {name}) set -- "$@" {more} ;;' for name, more in SMALL.items())
    for name, does in (OTHERS | {"l2": L2.format(small=small, call=call)}).items():
        (folder / name).write_text(does if name == "l2" else f"#!/bin/bash\n{does}\n")
        (folder / name).chmod(0o755)
    yield folder
    os.killpg(server.pid, signal.SIGKILL)  # forks of it, too
    server.wait()
    server.stdout.close()


def texts() -> list[str]:
    """English of some length: the licence's paragraphs, each said in two orders of its sentences."""
    paragraphs = [" ".join(p.split()) for p in (ROOT / "LICENSE").read_text().split("\n\n")]
    return [p for p in paragraphs if len(p.split()) > 60]


@pytest.fixture(scope="module")
def world(tmp_path_factory, tokenizer):
    """A directory with something small under every name that the examples read."""
    home = tmp_path_factory.mktemp("world")
    random = Random(0)
    questions = ["what is bread", "who sat on the mat", "how do you make tea", "what is salt", "who ran under the hill"]
    answers = ["the cat sat on the mat.", "make tea with bread.", "a dog ran.", "salt and bread.", "on the hill."]

    def put(names: str, records: list[dict]) -> None:
        for name in names.split():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            write_records(home / name, records)

    documents = [{"text": text, "id": f"d{i}", "source": f"s{i % 2}"} for i, text in enumerate(texts())]
    put("docs.jsonl raw/documents.jsonl raw/documents.val.jsonl cited.jsonl web/a.jsonl.zst web/b.jsonl.zst", documents)
    put("random.jsonl", [{"text": " ".join(random.choices(answers, k=20))} for _ in range(len(documents))])
    kinds = ["illicit", "hateful", "advice"]
    prompts = [{"prompt": q, "id": f"p{i}", "safety": i % 2 == 0, "category": kinds[i % 3]}
               for i, q in enumerate(questions * 4)]  # fmt: skip
    put("prompts.jsonl val.jsonl raw/prompts.jsonl raw/prompts.val.jsonl adversarial.jsonl", prompts)
    turns = [{"role": "user", "content": questions[0]}, {"role": "assistant", "content": answers[0]}]
    dialogs = [{"messages": turns * 2, "id": f"g{i}"} for i in range(12)]
    put("dialogs.jsonl raw/dialogs.jsonl raw/dialogs.val.jsonl raw/gatt.jsonl raw/gatt.val.jsonl mine.jsonl", dialogs)
    pairs = [
        {"prompt": question, "chosen": "the cat sat on the mat.", "rejected": answers[i % 4 + 1], "rating": "better",
         "safety": "both_safe", "id": f"c{i}", "kind": ("helpful", "safe")[i % 2], "source": "human"}
        for i, question in enumerate(questions * 4)
    ]  # fmt: skip
    put("preferences.jsonl helpful.jsonl safe.jsonl val-helpful.jsonl val-safe.jsonl", pairs)
    for name, count in {"samples": 4, "val-samples": 2, "answers-sft": 2, "v1": 1, "v2": 1}.items():
        put(f"{name}.jsonl", [
            {**prompt, "response": answers[(i * 2 + k) % 5], "sample": k, "model": name, "temperature": 1.0,
             "finish": "stop"}
            for i, prompt in enumerate(prompts) for k in range(count)
        ])  # fmt: skip
    put(
        "constraints.jsonl raw/constraints.jsonl",
        [{"instruction": f"Act as a {who}.", "id": who} for who in ("cat", "dog")],
    )
    fact = {"prompt": "how old is the hill", "answer": "{years} years", "date": "2009-01-20"}
    put("facts.jsonl", [fact, {**fact, "before": "it is not there yet"}])
    result = {"task": "t", "metric": "accuracy", "value": 0.5, "stderr": 0.1, "n": 20, "model": "old"}
    put("history.jsonl text-untrained.jsonl", [result])
    put("tonight.jsonl text-base.jsonl", [{**result, "model": "new"}])
    put("ratings.jsonl", [{"id": f"p{i}", "rater": f"r{k}", "preference": 1 + (i + k) % 7}
                          for i in range(20) for k in range(3)])  # fmt: skip
    (home / "words.txt").write_text("poison\nhate\n")
    shapes = make(home / "shapes", 8, 2)
    named = {"data/mmlu": shapes["mmlu"], "hellaswag_val.jsonl": shapes["hellaswag"] / "validation.jsonl"}
    (home / "data").mkdir()
    for name, source in named.items():
        shutil.copytree(source, home / name) if source.is_dir() else shutil.copy(source, home / name)
    for name in ("tok.model", "tokenizer.model"):
        (home / name).write_bytes(tokenizer.model_bytes)
    shape = {"max_seq_len": 2048}
    save_talker(home / "talker", tokenizer, **shape)
    save_model(
        scalar_from(new_model(small_config(tokenizer.vocab_size, **shape), seed=1), seed=1), home / "judge", tokenizer
    )
    for name in ("base", "sft", "rs", "ppo", "gatt", "v1", "runs/base", "runs/sft", "runs/chat", "runs/7b"):
        shutil.copytree(home / "talker", home / name)
    for name in ("helpful-rm", "safe-rm", "runs/rm", "runs/helpful-rm", "runs/safe-rm", "rm-h", "rm-s"):
        shutil.copytree(home / "judge", home / name)
    seed = home / "runs/quickstart/seed-0"
    for argv in (
        ["tokenize", home / "docs.jsonl", "--tokenizer", home / "tok.model", "--out", home / "data"],
        ["convert", home / "talker", home / "Llama-2-7b-chat", "--to", "meta"],
        ["sft", "--model", home / "talker", "--data", home / "dialogs.jsonl", "--out", seed / "gatt", "--epochs", 1],
    ):
        assert main([*map(str, argv), "--quiet"]) == 0
    return home


@pytest.mark.parametrize("example", EXAMPLES)
def test_example(example, world, l2, tmp_path):
    here = tmp_path / "world"
    shutil.copytree(world, here)
    for name in outputs(example):
        shutil.rmtree(here / name) if (here / name).is_dir() else (here / name).unlink(missing_ok=True)
    env = os.environ | {"PATH": f"{l2}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-e", "-o", "pipefail", "-c", example], cwd=here, env=env, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=180)  # fmt: skip
    assert done.returncode == 0, f"{example}\n{done.stdout}\n{done.stderr}"
    for name in outputs(example) if "7b" not in example else ():  # of which the size is dry-run
        assert (here / name).exists(), f"{example}\nwrote no {name}"


def test_each_command_has_an_example_in_the_readme():
    shown = {one.split()[1] for one in cells(ROOT / "README.md")}
    assert shown == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_whole(name):
    """Each option says what it is; a number that is no plain 0 or 1 says where it is from; an example ends it all."""
    command = typer_command(name)
    assert (command.help or "").strip().splitlines()[-1].strip() and of_help(name)
    assert "Example: " in command.help.split("\n\n")[-1]
    for option in command.params:
        told = option.help or ""
        assert told and told.endswith((".", ")")), f"{name} {option.opts[0]}: {told!r}"
        if isinstance(option.default, int | float) and option.default not in (0, 1):
            assert re.search(r"ours|paper|§|Table|Figure|LLaMA|Meta", told), f"{name} {option.opts[0]} {option.default}"
