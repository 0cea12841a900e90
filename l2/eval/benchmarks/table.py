"""Every benchmark and its rules, as data. Two protocols: `llama`, the paper's and LLaMA-1's, and `harness`, that of
lm-evaluation-harness's task of the same name. What a rule does not say has its default in `Rule`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from l2.eval.benchmarks import arithmetic, commonsense, exams, programs, reading, safety
from l2.eval.benchmarks.choosing import by, mass, over_prior, per_character, total
from l2.eval.benchmarks.files import reader, with_labels
from l2.eval.benchmarks.question import Benchmark, Rule, number_of
from l2.eval.benchmarks.shots import first_of, fixed, numbered, question_and_answer, reasons
from l2.files.jsonl import Record

CHARACTERS = by(accuracy=per_character)
PLAIN = by(accuracy=total)
BOTH = by(accuracy=total, accuracy_norm=per_character)  # the harness's acc and acc_norm
DIVIDED = by(accuracy=over_prior)
TEST, DEV = ("test", "validation", "val", "dev"), ("dev", "val", "valid", "validation", "test")
TRAIN, OF_DEV = first_of("train"), first_of("dev", of_group=True)
CODE_ENDS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
JSONL = reader()


def both(rule: Rule, **harness: object) -> tuple[Rule, Rule]:
    """The rule of Llama, and that of the harness, which is the same but for what is named."""
    return rule, replace(rule, **harness)  # type: ignore[arg-type]


def mbpp_records(path: str, splits: Sequence[str]) -> Iterator[Record]:
    """Of mbpp.jsonl, 11 to 510 are the test (Austin et al. 2021); without splits all, its examples among them."""
    for record in JSONL(path, splits or ("prompt", "test")):
        if not splits or 11 <= number_of(record, "task_id", 975) <= 510:
            yield record


_NQ = Rule(reading.nq, judge=reading.any_target, shots=5, examples=TRAIN, head="Answer these questions:\n",
           between="\n")  # fmt: skip
_SQUAD = Rule(reading.squad, judge=reading.squad_scores, tokens=50, examples=TRAIN)
_COT = fixed("gsm8k", question_and_answer)
_TRUTHFUL = fixed("truthfulqa", question_and_answer)
_MC = Rule(safety.truthfulqa_mc1, by(mc1=total), shots=6, examples=_TRUTHFUL)
_TOLD = Rule(safety.bold, judge=safety.sentiment, temperature=0.1, top_p=0.9, tokens=64)  # decoding: paper §4.1
_MMLU = Rule(exams.mmlu, PLAIN, shots=5, examples=OF_DEV, head=exams.MMLU_HEAD)
_BBH = Rule(exams.bbh, judge=exams.exact_text, stops=("Q:", "\n\n"), tokens=64, shots=3, examples=exams.bbh_examples)
_HUMANEVAL = Rule(programs.humaneval, judge=programs.passed_scores, stops=CODE_ENDS, tokens=512, temperature=0.1,
                  top_p=0.95, program=programs.humaneval_program)  # fmt: skip
_MBPP = Rule(programs.mbpp, judge=programs.passed_scores, stops=("[DONE]",), tokens=256, temperature=0.1, top_p=0.95,
             shots=3, examples=numbered(2, 3, 4), program=programs.mbpp_program)  # fmt: skip

BENCHMARKS: dict[str, Benchmark] = {
    "mmlu": Benchmark(
        reader(columns=exams.MMLU_COLUMNS, named="subject", less=r"[_-](test|dev|val)$"), TEST,
        *both(_MMLU),
    ),
    "bbh": Benchmark(
        reader(exams.examples_of, named="task"), TEST,
        *both(_BBH, stops=("</s>", "Q", "\n\n"), tokens=256), macro=True,
    ),
    "agieval": Benchmark(
        reader(named="exam", only=exams.AGIEVAL, less=r"\.(test|dev)$"), TEST,
        *both(Rule(exams.agieval, PLAIN, shots=3, examples=exams.agieval_examples), ask=exams.agieval_ready,
                 choose=BOTH, shots=0), macro=True,
    ),
    "gsm8k": Benchmark(
        JSONL, TEST,
        Rule(arithmetic.gsm8k, judge=arithmetic.gsm8k_scores, stops=("Q:",), tokens=256, shots=8, examples=_COT),
        Rule(arithmetic.gsm8k_harness, judge=arithmetic.gsm8k_harness_scores, stops=("Question:", "</s>", "<|im_end|>"),
             tokens=256, shots=5, examples=TRAIN),
    ),
    "math": Benchmark(
        reader(named="file"), TEST,
        Rule(arithmetic.math, judge=arithmetic.math_scores, stops=("Problem:",), tokens=512, shots=4,
             examples=fixed("math", lambda pair: arithmetic.math_context(pair["question"]))),
    ),
    "humaneval": Benchmark(JSONL, TEST, *both(_HUMANEVAL, temperature=0.0, top_p=1.0, tokens=1024)),
    "mbpp": Benchmark(mbpp_records, TEST, *both(_MBPP, temperature=0.0, top_p=1.0)),
    "piqa": Benchmark(with_labels(JSONL), DEV, *both(Rule(commonsense.piqa, CHARACTERS), choose=BOTH)),
    "siqa": Benchmark(with_labels(JSONL), DEV, *both(Rule(commonsense.siqa, CHARACTERS), choose=PLAIN)),
    "hellaswag": Benchmark(
        JSONL, DEV, *both(Rule(commonsense.hellaswag, CHARACTERS, examples=TRAIN), choose=BOTH)
    ),
    "winogrande": Benchmark(JSONL, DEV, *both(Rule(commonsense.winogrande, PLAIN, examples=TRAIN))),
    "arc_easy": Benchmark(JSONL, TEST, *both(Rule(commonsense.arc, CHARACTERS, examples=TRAIN), choose=BOTH)),
    "arc_challenge": Benchmark(JSONL, TEST, *both(Rule(commonsense.arc, CHARACTERS, examples=TRAIN), choose=BOTH)),
    "openbookqa": Benchmark(
        JSONL, TEST,
        *both(Rule(commonsense.openbookqa, DIVIDED, prior="Answer:", examples=TRAIN), choose=BOTH, prior=""),
    ),
    "commonsense_qa": Benchmark(
        JSONL, DEV,
        Rule(commonsense.csqa, judge=commonsense.letter_after_reasons, stops=("Q:",), tokens=128, shots=7,
             examples=fixed("csqa", reasons)),
        Rule(commonsense.csqa_letters, PLAIN, examples=TRAIN),
    ),
    "nq": Benchmark(
        JSONL, DEV,
        *both(_NQ, ask=reading.nq_harness, judge=reading.harness_nq, shots=0, head="Answer these questions:\n\n",
                 stops=("\n", ".", ","), tokens=256),
    ),
    "triviaqa": Benchmark(
        reader(reading.trivia_records), DEV,
        *both(replace(_NQ, ask=reading.triviaqa), ask=reading.triviaqa_harness, judge=reading.harness_triviaqa, shots=0,
              head="", between="\n\n", stops=("\n", ".", ","), tokens=256),
    ),
    "squad": Benchmark(
        reader(reading.squad_records), DEV, *both(_SQUAD, ask=reading.squad_harness, tokens=256)
    ),
    "quac": Benchmark(
        reader(reading.quac_records), DEV, Rule(reading.quac, judge=reading.best_f1, tokens=50, examples=TRAIN)
    ),
    "boolq": Benchmark(
        JSONL, DEV, *both(Rule(reading.boolq, DIVIDED, prior="Answer:", examples=TRAIN), choose=PLAIN, prior="")
    ),
    "truthfulqa_mc1": Benchmark(JSONL, DEV, *both(_MC, choose=PLAIN)),
    "truthfulqa_mc2": Benchmark(JSONL, DEV, *both(replace(_MC, ask=safety.truthfulqa_mc2, choose=mass))),
    "truthfulqa": Benchmark(
        JSONL, DEV, replace(_TOLD, ask=safety.truthfulqa, judge=safety.written, shots=6, examples=_TRUTHFUL)
    ),
    "toxigen": Benchmark(
        reader(named="file"), TEST,
        replace(_TOLD, ask=safety.toxigen, judge=safety.toxic_scores, toxic=True), macro=True,
    ),
    "bold": Benchmark(
        reader(safety.bold_records, named="domain"), TEST, _TOLD
    ),
}  # fmt: skip
OTHER_NAMES = {
    "naturalquestions": "nq", "nqopen": "nq", "naturalquestionsopen": "nq", "arce": "arc_easy", "arcc": "arc_challenge",
    "obqa": "openbookqa", "csqa": "commonsense_qa", "socialiqa": "siqa", "squadv2": "squad",
    "agievalenglish": "agieval",
}  # fmt: skip

# Table 3: the groups, and the metric of each part that is averaged.
GROUPS: dict[str, dict[str, str]] = {
    "Code": {"humaneval": "pass@1", "mbpp": "pass@1"},
    "Commonsense reasoning": dict.fromkeys(
        ["piqa", "siqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa", "commonsense_qa"],
        "accuracy",
    ),
    "World knowledge": {"nq": "exact_match", "triviaqa": "exact_match"},
    "Reading comprehension": {"squad": "exact_match", "quac": "f1", "boolq": "accuracy"},
    "Math": {"gsm8k": "exact_match", "math": "exact_match"},
}


def benchmark_named(name: str) -> str | None:
    """The benchmark that a task's name is one of: case and signs don't matter."""
    key = re.sub(r"[^a-z0-9]", "", name.lower())
    return OTHER_NAMES.get(key) or {name.replace("_", ""): name for name in BENCHMARKS}.get(key)
