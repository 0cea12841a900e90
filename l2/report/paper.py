"""The paper's own numbers, to stand beside ours (Tables 2, 3, 19 to 25, 30)."""

from __future__ import annotations

from typing import NamedTuple

from l2.eval.benchmarks.table import GROUPS, benchmark_named

SIZES = ("7B", "13B", "34B", "70B")

# Table 2: GPU hours, watts, tCO2eq.
CARBON = {
    "7B": (184_320, 400, 31.22),
    "13B": (368_640, 400, 62.44),
    "34B": (1_038_336, 350, 153.90),
    "70B": (1_720_320, 400, 291.42),
}


class Benchmark(NamedTuple):
    """A benchmark's shots in the paper, and the score of Llama 2 in percent at each of SIZES."""

    title: str
    shots: int
    scores: tuple[float, float, float, float]


# By our name of the benchmark. Natural Questions and TriviaQA are 5-shot in Table 3.
BENCHMARKS = {
    "humaneval": Benchmark("HumanEval pass@1", 0, (12.8, 18.3, 22.6, 29.9)),
    "mbpp": Benchmark("MBPP pass@1", 3, (20.8, 30.6, 33.0, 45.0)),
    "piqa": Benchmark("PIQA", 0, (78.8, 80.5, 81.9, 82.8)),
    "siqa": Benchmark("SIQA", 0, (48.3, 50.3, 50.9, 50.7)),
    "hellaswag": Benchmark("HellaSwag", 0, (77.2, 80.7, 83.3, 85.3)),
    "winogrande": Benchmark("WinoGrande", 0, (69.2, 72.8, 76.7, 80.2)),
    "arc_easy": Benchmark("ARC easy", 0, (75.2, 77.3, 79.4, 80.2)),
    "arc_challenge": Benchmark("ARC challenge", 0, (45.9, 49.4, 54.5, 57.4)),
    "openbookqa": Benchmark("OpenBookQA", 0, (58.6, 57.0, 58.2, 60.2)),
    "commonsense_qa": Benchmark("CommonsenseQA", 7, (57.8, 67.3, 74.3, 78.5)),
    "nq": Benchmark("Natural Questions", 5, (25.7, 31.2, 32.8, 39.5)),
    "triviaqa": Benchmark("TriviaQA", 5, (72.1, 79.6, 84.5, 87.6)),
    "squad": Benchmark("SQuAD", 0, (67.2, 72.9, 77.4, 80.7)),
    "quac": Benchmark("QuAC", 0, (39.4, 42.7, 42.9, 42.4)),
    "boolq": Benchmark("BoolQ", 0, (77.4, 81.7, 83.7, 85.0)),
    "gsm8k": Benchmark("GSM8K", 8, (14.6, 28.7, 42.2, 56.8)),
    "math": Benchmark("MATH", 4, (2.5, 3.9, 6.24, 13.5)),
    "mmlu": Benchmark("MMLU", 5, (45.3, 54.8, 62.6, 68.9)),
    "bbh": Benchmark("BBH", 3, (32.6, 39.4, 44.1, 51.2)),
    "agieval": Benchmark("AGIEval (English)", 4, (29.3, 39.1, 43.4, 54.2)),
}

# Table 3, by our name of the group. Math of 7B and 13B is GSM8K alone there.
MEANS = {
    "Code": (16.8, 24.5, 27.8, 37.5),
    "Commonsense reasoning": (63.9, 66.9, 69.9, 71.9),
    "World knowledge": (48.9, 55.4, 58.7, 63.6),
    "Reading comprehension": (61.3, 65.8, 68.0, 69.4),
    "Math": (14.6, 28.7, 24.2, 35.2),
}

# Table 30: share of dialogs in which the attribute is recalled, by turn, without and with Ghost Attention.
RECALLED = {2: (1.0, 1.0), 4: (0.1, 1.0), 6: (0.0, 1.0), 20: (0.0, 1.0)}


# The metric of each score: Tables 20 to 25.
HEADLINES = {name: metric for parts in GROUPS.values() for name, metric in parts.items()} | {
    "mmlu": "accuracy",
    "bbh": "exact_match",
    "agieval": "accuracy",
}


def benchmark(task: str) -> tuple[str, Benchmark] | None:
    """The key and the numbers of the paper's benchmark that a task is named after, if any."""
    key = benchmark_named(task)
    return (key, BENCHMARKS[key]) if key in BENCHMARKS else None
