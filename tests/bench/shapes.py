"""Files in the shapes of the benchmarks, made of a small vocabulary, as published and as exports of their parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

ONSETS, VOWELS, CODAS = ("b br c d f gr h l m n p r s st t w", "a e i o u ea", "n r st l m t")
WORDS = [a + b + c + d for a in ONSETS.split() for b in VOWELS.split() for c in CODAS.split() for d in ("", "er", "y")]
SUBJECTS = ("anatomy", "econometrics", "nutrition", "philosophy")


def words(random: Random, least: int, most: int) -> str:
    """A run of words."""
    return " ".join(random.choice(WORDS) for _ in range(random.randint(least, most)))


def write_jsonl(path: Path, rows: Sequence[dict]) -> Path:
    """Rows as JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def hellaswag(random: Random) -> dict:
    """As the harness's export, with markup to be taken out."""
    return {
        "activity_label": words(random, 1, 2), "ctx_a": f"[header] {words(random, 8, 20).capitalize()}. [title] Then.",
        "ctx_b": words(random, 0, 6), "endings": [words(random, 4, 18) + "." for _ in range(4)],
        "label": str(random.randrange(4)),
    }  # fmt: skip


def arc(random: Random) -> dict:
    """Of 3 to 5 choices, some with numbers for labels."""
    count = random.choice([3, 4, 4, 4, 5])
    labels = list("ABCDE" if random.random() < 0.8 else "12345")[:count]
    choices = {"text": [words(random, 1, 8) for _ in labels], "label": labels}
    return {"id": f"q{random.randrange(10**6)}", "question": f"{words(random, 8, 25).capitalize()}?",
            "choices": choices, "answerKey": random.choice(labels)}  # fmt: skip


def mmlu(random: Random) -> dict:
    """Of one subject."""
    return {"question": f" {words(random, 8, 40)}?", "choices": [words(random, 1, 9) for _ in range(4)],
            "answer": random.randrange(4)}  # fmt: skip


def winogrande(random: Random) -> dict:
    """With a gap in the middle."""
    return {"sentence": f"{words(random, 6, 14)} because _ {words(random, 2, 8)}.", "option1": words(random, 1, 1),
            "option2": words(random, 1, 2), "answer": random.choice("12")}  # fmt: skip


def boolq(random: Random) -> dict:
    """As SuperGLUE has it."""
    return {"question": words(random, 6, 12), "passage": words(random, 60, 120), "label": random.randrange(2)}


def gsm8k(random: Random) -> dict:
    """With a calculation and ####."""
    a, b = random.randrange(1, 40), random.randrange(1, 40)
    question = f"{words(random, 4, 9)} {a} {words(random, 3, 6)} {b} {words(random, 2, 5)}?"
    return {"question": question, "answer": f"{words(random, 5, 9)} {a}+{b}=<<{a}+{b}={a + b}>>{a + b}.\n#### {a + b}"}


def triviaqa(random: Random) -> dict:
    """As rc.nocontext's export."""
    value = words(random, 1, 2)
    return {"question": f"{words(random, 6, 14)}?", "question_id": f"t{random.randrange(10**6)}",
            "answer": {"value": value, "aliases": [value, value.title(), words(random, 1, 1)]}}  # fmt: skip


SHAPES = {"hellaswag": hellaswag, "arc_easy": arc, "winogrande": winogrande, "boolq": boolq, "gsm8k": gsm8k,
          "triviaqa": triviaqa}  # fmt: skip
SPLITS = {"hellaswag": "validation", "arc_easy": "test", "winogrande": "validation", "boolq": "validation",
          "gsm8k": "test", "triviaqa": "validation"}  # fmt: skip


def make(folder: Path, count: int, written: int, seed: int = 0) -> dict[str, Path]:
    """{benchmark: directory} of files with `count` questions each, `written` of those whose answers are written.

    With 8 examples beside each; MMLU in four subjects, as published and as exported.
    """
    count_of = dict.fromkeys([*SHAPES, "mmlu"], count) | {"gsm8k": written, "triviaqa": written}
    made = {}
    for name, shape in SHAPES.items():
        random = Random(f"{seed}{name}")
        made[name] = folder / name
        write_jsonl(made[name] / f"{SPLITS[name]}.jsonl", [shape(random) for _ in range(count_of[name])])
        write_jsonl(made[name] / "train.jsonl", [shape(random) for _ in range(8)])
    random = Random(f"{seed}mmlu")
    made["mmlu"], made["mmlu_export"] = folder / "mmlu", folder / "mmlu_export"
    for subject in SUBJECTS:
        for split, count in (("test", count_of["mmlu"] // len(SUBJECTS)), ("dev", 5)):
            rows = [mmlu(random) for _ in range(count)]
            exported = [{**row, "subject": subject} for row in rows]
            write_jsonl(made["mmlu_export"] / subject / f"{split}.jsonl", exported)
            made["mmlu"].joinpath(split).mkdir(parents=True, exist_ok=True)
            with open(made["mmlu"] / split / f"{subject}_{split}.csv", "w", newline="") as f:
                for row in rows:
                    csv.writer(f).writerow([row["question"], *row["choices"], "ABCD"[row["answer"]]])
    return made
