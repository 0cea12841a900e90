"""A benchmark that is ready to be asked: its questions, the examples before them, and its rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import xxhash

from l2.eval.benchmarks.question import Item, Question, Rule, Shots, Source
from l2.eval.benchmarks.table import BENCHMARKS, GROUPS
from l2.eval.metrics import Estimate, clustered, mean_of_estimates
from l2.eval.stamp import task_version
from l2.files.errors import BadInput, L2Error, UsageError

PROTOCOLS = ("llama", "harness")


class Asking(NamedTuple):
    """What the user changes of rules; None leaves it as it is. samples: answers to each question."""

    protocol: str = "llama"
    shots: int | None = None
    temperature: float | None = None
    tokens: int | None = None
    samples: int = 1


@dataclass(frozen=True)
class Suite:
    """Questions, and the text before those of each group."""

    name: str
    protocol: str
    rule: Rule
    questions: Sequence[Question]
    before: Mapping[str, str]
    shots: int
    samples: int
    macro: bool

    def prompt(self, question: Question, context: str | None = None) -> str:
        """All that the model reads: headline, examples, and the question's context (or one of its own)."""
        return self.before[_group(question)] + (question.context if context is None else context)

    @property
    def version(self) -> str:
        """Of the rule and of the records: another prompt or other questions are another version."""
        return task_version(self.rule.version, [q.record for q in self.questions])


def _group(question: Question) -> str:
    return question.groups[-1] if question.groups else ""


def read_suite(name: str, path: str, asking: Asking) -> Suite:
    """The benchmark `name` of the files at `path`.

    Raises UsageError where the protocol has no rule for it, and where `asking` contradicts it; BadInput for a record
    that is no question of it, L2Error where there are not as many examples as the rule asks for.
    """
    benchmark = BENCHMARKS[name]
    rule: Rule | None = getattr(benchmark, asking.protocol)
    if rule is None:
        raise UsageError(f"{name} has no rule under --protocol {asking.protocol}; give --protocol llama")
    if asking.temperature is not None:
        rule = replace(rule, temperature=asking.temperature, top_p=rule.top_p if asking.temperature else 1.0)
    if asking.tokens is not None:
        rule = replace(rule, tokens=asking.tokens)
    samples = asking.samples if rule.judge else 1
    if samples > 1 and not rule.temperature:
        raise UsageError(f"{name}: {samples} greedy answers to a question are all the same; give --temperature")
    shots = rule.shots if asking.shots is None else asking.shots
    questions = [_sound(rule.ask(record)) for record in benchmark.read(path, benchmark.splits)]
    source = Source(path, benchmark.read)
    before = {group: _before(rule, source, group, shots) for group in dict.fromkeys(map(_group, questions))}
    return Suite(name, asking.protocol, rule, questions, before, shots, samples, benchmark.macro)


def _sound(question: Question) -> Question:
    """The question. Raises BadInput where an option says nothing: it has no length to be divided by, and no tokens."""
    if not all(option.strip() for option in question.options):
        raise BadInput(question.record.where, f"options {list(question.options)!r:.80}", "a text for each")
    return question


def _before(rule: Rule, source: Source, group: str, shots: int) -> str:
    given = Shots("", ())
    if shots:
        if rule.examples is None:
            raise UsageError(f"{source.path}: its protocol has no examples; give --shots 0")
        given = rule.examples(source, rule.ask, group)
        if len(given.examples) < shots:
            of = f" of {group}" if group else ""
            raise L2Error(f"{source.path}: {len(given.examples)} examples{of}, and {shots} shots are asked for")
    head = rule.head.replace("{group}", group.replace("_", " "))
    return head + given.head + "".join(example + rule.between for example in given.examples[:shots])


def new_item(number: int, question: Question) -> Item:
    """What an item says of its question."""
    cluster = f"{xxhash.xxh3_64_intdigest(question.cluster.encode()):x}" if question.cluster else str(number)
    item: Item = {"id": number, "where": question.record.where, "groups": list(question.groups), "cluster": cluster}
    if question.options:
        characters = [len(option) for option in question.options]
        prompt = question.contexts_of_options()[question.right[0] if question.right else 0]
        said = {"prompt": prompt, "options": list(question.options), "right": list(question.right)}
        return item | said | {"characters": characters}
    written = {"prompt": question.context, "targets": list(question.targets)}
    return item | written | ({"reference": dict(question.reference)} if question.reference else {})


def judged(rule: Rule, item: Item) -> Item:
    """The item with its `scores`, from what it holds alone."""
    if rule.choose:
        return item | {"scores": rule.choose(item)}
    assert rule.judge
    return item | {"scores": rule.judge(item["responses"], item)}


def measured(items: Sequence[Item], *, macro: bool) -> dict[str, Estimate]:
    """The mean of each score: of all questions, or of the widest groups' means (`macro`), and of each group.

    Standard errors take the questions of a cluster as sampled together.
    """
    metrics: dict[str, Estimate] = {}
    groups: dict[str, list[Item]] = {}
    for item in items:
        for group in item["groups"]:
            groups.setdefault(group, []).append(item)
    widest = {item["groups"][0] for item in items if item["groups"]}
    for name in items[0]["scores"]:
        parts = {group: _mean(some, name) for group, some in sorted(groups.items())}
        whole = mean_of_estimates([parts[group] for group in sorted(widest)]) if macro and widest else None
        metrics[name] = whole or _mean(items, name)
        if len(parts) > 1:
            metrics |= {f"{name}/{group}": part for group, part in parts.items()}
    return metrics


def _mean(items: Sequence[Item], name: str) -> Estimate:
    return clustered([item["scores"][name] for item in items], [item["cluster"] for item in items])


def averages(values: Mapping[str, Mapping[str, Estimate]]) -> dict[str, Estimate]:
    """Table 3's groups of which every part is in `values`, {benchmark: its metrics}."""
    found = {}
    for group, parts in GROUPS.items():
        if all(metric in values.get(name, {}) for name, metric in parts.items()):
            found[group] = mean_of_estimates([values[name][metric] for name, metric in parts.items()])
    return found
