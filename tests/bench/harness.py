"""l2 evaluate beside lm-evaluation-harness, on the same checkpoint and files: picks, scores, questions a second.

Needs lm-eval in the environment (it is in none of ours): pip install lm-eval accelerate. Everything is made here and
nothing is fetched. `compare` prints the differences item by item, `golden DIR` writes what the harness found, for the
test that needs no harness (tests/eval/test_harness.py); `speed` measures both in turns. What differs, and why:

- lm-eval draws few-shot examples at random; here they are the first, so it is told to take those (`sampler: first_n`).
- It moves blanks that end a context to the continuation; we cut where the ids of the context cease to be a prefix.
  Both give the same for these benchmarks, none of whose contexts ends with a blank.
- Of a prompt too long to answer it keeps what leaves room for max_gen_toks; so do we, but half of the context at least.
- Bytes that are no UTF-8 become other replacement characters in transformers than in SentencePiece; such answers are
  wrong for both.
- It decodes an answer by itself, we decode it after its prompt: a first blank stays. The judges strip it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from l2.eval.benchmarks.suite import Asking, judged, new_item
from l2.eval.subject import Subject
from l2.eval.tasks import Task, read_task, run_task
from l2.model.checkpoint import load_model, new_model, save_model
from l2.model.config import ModelConfig
from l2.model.device import use_all_cores
from l2.tokens.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from tests.bench.generation import SMALL
from tests.bench.shapes import SPLITS, SUBJECTS, make, words

BYTES = 259  # ids of a Llama tokenizer that are special or bytes
TOKENS = 24  # of a written answer
GOLDEN = 16, 24  # questions of each benchmark, and of those whose answers are written
SHOTS = {"mmlu": 5, "gsm8k": 5, "triviaqa": 5}
TINY = ModelConfig(
    vocab_size=600, dim=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, ffn_dim=48, max_seq_len=2048
)
THEIRS = {"hellaswag": "hellaswag/hellaswag", "arc_easy": "arc/arc_easy", "winogrande": "winogrande/default",
          "boolq": "super_glue/boolq/default", "gsm8k": "gsm8k/gsm8k", "triviaqa": "triviaqa/default"}  # fmt: skip
Items = dict[str, list[dict[str, Any]]]  # by task; each has loglikelihoods or response, and scores


def checkpoint(folder: Path, config: ModelConfig, tokenizer: Tokenizer) -> Path:
    """A model whose weights are a formula, so that every version of torch makes the same; it never writes bytes."""
    model = new_model(config, seed=0)
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            if weight.dim() == 2:
                waves = torch.arange(weight.numel(), dtype=torch.float64) * (1.7 + 0.31 * number)
                weight.copy_((torch.sin(waves * waves.remainder(7.3)) * 1.6 * weight.shape[1] ** -0.5).view_as(weight))
        model.lm_head.weight[:BYTES] = 0.0
    save_model(model, folder / "model", tokenizer)
    return folder / "model"


def trained(folder: Path, files: Path, size: int) -> Tokenizer:
    """A tokenizer of the files' words."""
    random = Random(0)
    texts = [file.read_text() for file in sorted(files.rglob("*.jsonl"))] + [words(random, 50, 60) for _ in range(900)]
    return train_tokenizer(texts, size, folder / "tokenizer.model")


def said(name: str, doc: Mapping[str, Any], number: int) -> str:
    """An answer to judge, right or wrong, in one of the ways in which models answer."""
    random = Random(f"{name}{number}")
    if name == "gsm8k":
        right, wrong = doc["answer"].rpartition("#### ")[2], str(random.randrange(2000))
        shown = random.choice([right, right, wrong, f"{right}.", f"${right}", f"{right}.00", "1,234", f"-{right}"])
        return random.choice(
            [f" It is {wrong}.\n#### {shown}", f" So {shown} it is", f"#### {shown} and #### {wrong}", ""]
        )
    value = random.choice([*doc["answer"]["aliases"], words(random, 1, 2)])
    return random.choice(
        [f" {value}", value.upper(), f" The {value}", f" '{value}'", f" an {value} ", f"{value}  {value}"]
    )


def ours(model: Path, files: Mapping[str, Path], shots: Mapping[str, int]) -> Items:
    """Items of every benchmark under --protocol harness."""
    tokenizer = load_tokenizer(model)
    subject = Subject("m", load_model(model).eval(), tokenizer)
    found: Items = {}
    for name, path in files.items():
        if name == "mmlu_export":
            continue
        task = read_task(name, str(path), Asking("harness", shots.get(name, 0), tokens=TOKENS))
        found[name], _ = run_task(subject, task)
    return found


def configs(folder: Path, files: Mapping[str, Path], shots: Mapping[str, int]) -> list[str]:
    """lm-eval's own tasks, with our files in place of the hub's and so many examples; their names."""
    import lm_eval.tasks
    import yaml

    home = Path(lm_eval.tasks.__file__).parent
    for name, theirs in THEIRS.items():
        data = {SPLITS[name]: str(files[name] / f"{SPLITS[name]}.jsonl"), "train": str(files[name] / "train.jsonl")}
        config = {"task": name, "include": str(home / f"{theirs}.yaml"), "dataset_path": "json", "dataset_name": None,
                  "dataset_kwargs": {"data_files": data}, "fewshot_split": "train",
                  "fewshot_config": {"sampler": "first_n"}, "num_fewshot": shots.get(name, 0)}  # fmt: skip
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    for subject in SUBJECTS:
        data = {split: str(files["mmlu_export"] / subject / f"{split}.jsonl") for split in ("test", "dev")}
        head = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
        config = {"task": f"mmlu_{subject}", "include": str(home / "mmlu/default/_default_template_yaml"),
                  "dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": data},
                  "description": head, "num_fewshot": 5}  # fmt: skip
        (folder / f"mmlu_{subject}.yaml").write_text(yaml.safe_dump(config))
    return [*THEIRS, *(f"mmlu_{subject}" for subject in SUBJECTS)]


def theirs(
    model: Any,
    files: Mapping[str, Path],
    folder: Path,
    names: list[str] | None = None,
    shots: Mapping[str, int] = SHOTS,
) -> Items:
    """The same from lm-eval; model: a checkpoint's path, or lm-eval's own object."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    folder.mkdir(exist_ok=True)
    every = configs(folder, files, shots)
    given = {} if not isinstance(model, Path) else {"model_args": f"pretrained={model},dtype=float32", "device": "cpu"}
    done = lm_eval.simple_evaluate(
        "hf" if given else model, **given, tasks=names or every, batch_size=16, bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        gen_kwargs=f"max_gen_toks={TOKENS}",
    )  # fmt: skip
    return by_task(done["samples"])


def scripted(files: Mapping[str, Path], folder: Path) -> Items:
    """What lm-eval says of the answers of `said`."""
    import lm_eval
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

    class Scripted(LM):
        def loglikelihood(self, requests: Any, **_: Any) -> Any:
            raise NotImplementedError

        loglikelihood_rolling = loglikelihood

        def generate_until(self, requests: Any, **_: Any) -> list[str]:
            return [said(request.task_name, request.doc, request.doc_id) for request in requests]

    done = lm_eval.simple_evaluate(
        Scripted(), tasks=["gsm8k", "triviaqa"], num_fewshot=0, bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
    )  # fmt: skip
    return by_task(done["samples"])


def by_task(samples: Mapping[str, list[dict[str, Any]]]) -> Items:
    """lm-eval's samples as items, in the order of the questions."""
    found: Items = {}
    for name, rows in samples.items():
        for sample in sorted(rows, key=lambda sample: sample["doc_id"]):
            if isinstance(sample["resps"][0][0], str):
                item: dict[str, Any] = {"response": sample["resps"][0][0]}
            else:
                item = {"loglikelihoods": [float(value[0][0]) for value in sample["resps"]]}
            scores = {k: float(sample[k]) for k in ("acc", "acc_norm", "exact_match") if k in sample}
            found.setdefault(name, []).append(item | scores | {"id": sample["doc_id"], "filter": sample["filter"]})
    return found


def golden(found: Items) -> Items:
    """The harness's items in our order and with our names of metrics; MMLU's subjects as one."""
    merged: Items = {"mmlu": [item for subject in SUBJECTS for item in found.get(f"mmlu_{subject}", [])]}
    for name in THEIRS.keys() & found.keys():
        rows: dict[int, dict[str, Any]] = {}
        for item in found[name]:
            metric = "exact_match_flexible" if item["filter"] == "flexible-extract" else "exact_match"
            row = rows.setdefault(item["id"], {k: v for k, v in item.items() if k in ("loglikelihoods", "response")})
            row |= {"scores": row.get("scores", {}) | _renamed(item, metric)}
        merged[name] = list(rows.values())
    merged["mmlu"] = [
        {"loglikelihoods": item["loglikelihoods"], "scores": _renamed(item, "")} for item in merged["mmlu"]
    ]
    return {name: merged[name] for name in sorted(merged) if merged[name]}


def _renamed(item: Mapping[str, Any], metric: str) -> dict[str, float]:
    names = {"acc": "accuracy", "acc_norm": "accuracy_norm", "exact_match": metric}
    return {ours: item[their] for their, ours in names.items() if their in item}


def compared(mine: Items, other: Items) -> dict[str, tuple[int, float, int, int]]:
    """By task: questions, the greatest difference of log-likelihoods, how many scores and how many texts differ."""
    table = {}
    for name, items in other.items():
        worst, scores, texts = 0.0, 0, 0
        assert len(items) == len(mine[name]), name
        for a, b in zip(mine[name], items, strict=True):
            pairs = zip(a.get("loglikelihoods", ()), b.get("loglikelihoods") or (), strict=True)
            worst = max([worst, *(abs(x - y) for x, y in pairs)])
            scores += any(a["scores"][metric] != value for metric, value in b["scores"].items())
            texts += "response" in b and a["responses"][0].strip() != b["response"].strip()
        table[name] = len(items), worst, scores, texts
    return table


def judgements(files: Mapping[str, Path], names: Iterable[str]) -> Items:
    """Our items for the answers of `said`."""
    found: Items = {}
    for name in names:
        suite = read_task(name, str(files[name]), Asking("harness", 0)).suite
        assert suite is not None
        for number, question in enumerate(suite.questions):
            text = said(name, question.record, number)
            found.setdefault(name, []).append(judged(suite.rule, new_item(number, question) | {"responses": [text]}))
    return found


def table(rows: Mapping[str, tuple[int, float, int, int]]) -> None:
    """Print what `compared` found."""
    print(f"{'':12} {'n':>4} {'max |Δ nats|':>13} {'scores':>7} {'texts':>6}")
    for name, (n, worst, scores, texts) in rows.items():
        print(f"{name:12} {n:4} {worst:13.1e} {scores:7} {texts:6}")


def compare(folder: Path, write: str | None) -> None:
    """Print the differences, and write what the harness found."""
    files = make(folder / "files", *((GOLDEN) if write else (60, 20)))
    tokenizer = trained(folder, folder / "files", TINY.vocab_size)
    model = checkpoint(folder, TINY, tokenizer)
    asked = golden(theirs(model, files, folder / "tasks"))
    answered = golden(scripted(files, folder / "tasks"))
    table(compared(ours(model, files, SHOTS), asked))
    print("Answers that are given, judged by both:")
    table(compared(judgements(files, answered), answered))
    if write:
        for items in (*asked.values(), *answered.values()):
            for item in items:
                item["loglikelihoods"] = [round(value, 5) for value in item.get("loglikelihoods", ())]
        Path(write, "tokenizer.model").write_bytes(tokenizer.model_bytes)
        made = {"made by": "python -m tests.bench.harness golden tests/eval/golden", "asked": asked, "said": answered}
        Path(write, "harness.json").write_text(json.dumps(made) + "\n")


CASES = (("hellaswag", 0), ("arc_easy", 0), ("mmlu", 5), ("hellaswag", 5))
Run = Callable[[], float]  # seconds


def seconds(work: Callable[[], Any]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(title: str, n: int, rounds: int, runs: Mapping[str, Run]) -> None:
    """Medians of questions a second, with the least and the most, and their ratio."""
    took: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            took[name].append(run())
    rates = {name: n / statistics.median(some) for name, some in took.items()}
    for name, some in took.items():
        print(f"{title:28} {name:8} {rates[name]:7.1f} questions/s, {min(some):.1f}-{max(some):.1f} s")
    print(f"{title:28} {rates['l2'] / rates['lm-eval']:.2f} x", flush=True)


def speed(folder: Path, rounds: int, count: int, whole: int, batch: int) -> None:
    """Questions a second from texts to log-likelihoods, in one process; then whole processes on `whole` questions."""
    from lm_eval.models.huggingface import HFLM

    class Timed(HFLM):
        took = 0.0

        def loglikelihood(self, *given: Any, **named: Any) -> Any:
            found: list[Any] = []
            self.took = seconds(lambda: found.extend(HFLM.loglikelihood(self, *given, **named)))
            return found

    files = make(folder / "files", count, 4)
    model = checkpoint(folder, replace(SMALL, max_seq_len=2048), trained(folder, folder / "files", 3000))
    use_all_cores()
    subject = Subject("m", load_model(model).eval(), load_tokenizer(model))
    peer = Timed(pretrained=str(model), dtype="float32", device="cpu", batch_size=batch)
    run_task(subject, read_task("boolq", str(files["boolq"]), Asking("harness", 0)))  # compiles what is to be compiled
    for name, shots in CASES:
        names = [f"mmlu_{field}" for field in SUBJECTS] if name == "mmlu" else [name]
        task = read_task(name, str(files[name]), Asking("harness", shots))
        asked = {"mmlu": 5} if name == "mmlu" else {name: shots}

        def other(names: list[str] = names, asked: Mapping[str, int] = asked) -> float:
            theirs(peer, files, folder / "tasks", names, asked)
            return peer.took

        def own(task: Task = task, subject: Subject = subject) -> float:
            return seconds(lambda: run_task(subject, task))

        in_turns(f"{name}, {shots}-shot", count // 4 * 4, rounds, {"l2": own, "lm-eval": other})
    many = make(folder / "many" / "files", whole, 4)
    argv = [sys.executable, "-m", "cmds.app", "evaluate", "--model", str(model), "--protocol", "harness", "--quiet",
            "--task", f"hellaswag={many['hellaswag']}", "-o", "/dev/null"]  # fmt: skip
    once = [sys.executable, "-m", "tests.bench.harness", "once", str(folder / "many"), str(model), "hellaswag"]
    quiet: dict[str, Any] = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    runs: dict[str, Run] = {
        "l2": lambda: seconds(lambda: subprocess.run(argv, **quiet)),
        "lm-eval": lambda: seconds(lambda: subprocess.run(once, **quiet)),
    }
    in_turns("hellaswag, whole process", whole, rounds, runs)


def once(folder: Path, model: str, name: str) -> None:
    """One run of lm-eval, as its own command would be."""
    files = {path.name: path for path in (folder / "files").iterdir()}
    names = [f"mmlu_{field}" for field in SUBJECTS] if name == "mmlu" else [name]
    theirs(Path(model), files, folder / "tasks", names)


def main() -> None:
    """compare, golden FILE, speed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["compare", "golden", "speed", "once"])
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--count", type=int, default=120, help="questions in one process")
    parser.add_argument("--whole", type=int, default=1000, help="questions of whole processes")
    parser.add_argument("--batch", type=int, default=16, help="of lm-eval")
    asked = parser.parse_args()
    os.environ |= {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    if asked.part == "once":
        return once(Path(asked.rest[0]), *asked.rest[1:])
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_HOME"] = folder
        if asked.part == "speed":
            return speed(Path(folder), asked.rounds, asked.count, asked.whole, asked.batch)
        compare(Path(folder), asked.rest[0] if asked.part == "golden" else None)


if __name__ == "__main__":
    main()
