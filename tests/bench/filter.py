"""How fast l2 filters, stage by stage, beside datatrove or any program that prints a rate: see shell/bench.sh.

Contenders take turns within a round, so that a slow minute of the machine hits all of them; medians over rounds, with
the least and the most, of one process with one thread. No test asserts a time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from l2.files.jsonl import Record
from l2.files.ledger import Ledger
from l2.text.checks import Check, contamination_check, line_check, private_check, quality_check
from l2.text.contamination import Contamination, read_items
from l2.text.fasttext_model import LABEL, load_predict
from l2.text.language import MODEL, find_model, load_identifier
from l2.text.lines import SeenLines
from l2.text.pipeline import judged
from l2.text.quality import Page, findings, rules

RULES = {"gopher": ("gopher",), "c4": ("c4",), "fineweb": ("fineweb",), "all": ("gopher", "c4", "fineweb")}


class Nowhere:
    """A ledger's writer."""

    def write(self, record: object) -> None:
        """Forget it."""


def through(check: Check, texts: list[str]) -> float:
    """Documents a second through one check, the first finding against each ending it."""
    documents = [Record({"id": str(i), "text": text}, f"docs:{i + 1}") for i, text in enumerate(texts)]
    start = time.perf_counter()
    for _ in judged(documents, [check], Ledger(Nowhere())):
        pass
    return len(texts) / (time.perf_counter() - start)


def each(function: Callable[[str], object], texts: list[str]) -> float:
    """Documents a second through a function."""
    start = time.perf_counter()
    for text in texts:
        function(text)
    return len(texts) / (time.perf_counter() - start)


def ours(texts: list[str], tasks: list[str]) -> dict[str, Callable[[], float]]:
    """Each stage alone, by name."""
    identify, predict = load_identifier(), load_predict(find_model(), MODEL)
    runs = {f"rules {name}": partial(through, quality_check(rules(sets)), texts) for name, sets in RULES.items()}
    runs |= {
        "language": partial(each, identify, texts),
        "language, whole text": partial(each, lambda text: predict(text, 1), texts),
        "lines c4,dedup": lambda: through(
            line_check(("c4", "dedup"), SeenLines(), Ledger(Nowhere()), Counter()), texts
        ),
        "private information": partial(through, private_check(drop=False), texts),
    }
    if tasks:
        runs["decontaminate"] = partial(through, contamination_check(Contamination(read_items(tasks))), texts)
    return runs


def last_number(command: str) -> float:
    """The last number that a program prints."""
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def agreement(texts: list[str]) -> None:
    """How often a sample's language is the whole text's, also with the threshold of 0.5."""
    identify, predict = load_identifier(), load_predict(find_model(), MODEL)
    same = sure = 0
    for text in texts:
        (probability, label), (found, p) = predict(text, 1)[0], identify(text)
        same += found == label.removeprefix(LABEL)
        sure += (found if p >= 0.5 else None) == (label.removeprefix(LABEL) if probability >= 0.5 else None)
    print(f"languages as of the whole text: {same / len(texts):.4%}; or unknown: {sure / len(texts):.4%}")


def decisions(texts: list[str], path: str) -> None:
    """How far a peer's kept documents, {rule set: [index]} in a JSON file, are ours."""
    for name, indices in json.loads(Path(path).read_text()).items():
        table, theirs = rules(RULES[name]), set(indices)
        first = [next((f.rule for f in findings(Page(text), table) if not f.passes), "") for text in texts]
        both = sum((not rule) == (i in theirs) for i, rule in enumerate(first))
        only = Counter(rule for i, rule in enumerate(first) if rule and i in theirs)
        print(
            f"  {name}: same decision on {both / len(texts):.2%}; we keep {first.count(''):,}, they {len(theirs):,}; "
            f"dropped by us alone: {dict(only.most_common(4))}"
        )


def main() -> None:
    """All stages, and the peers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", required=True, help="JSONL of documents, of 2.2 KB each to compare with LOG.md")
    parser.add_argument("--most", type=int, default=3000, help="documents read")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", nargs="*", default=[], help="task files to decontaminate against")
    parser.add_argument("--kept", help="a peer's decisions (tests/bench/datatrove_filter.py writes them)")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=COMMAND",
        help="a program whose last word is documents a second; {docs} is --docs, {most} --most",
    )  # fmt: skip
    asked = parser.parse_args()
    with open(asked.docs) as f:
        texts = [json.loads(line)["text"] for line, _ in zip(f, range(asked.most), strict=False)]
    megabytes = sum(len(text.encode()) for text in texts) / len(texts) / 1e6
    print(f"{len(texts):,} documents of {1e6 * megabytes:,.0f} bytes, {asked.rounds} rounds")
    runs = ours(texts, asked.tasks)
    for peer in asked.peer:
        name, _, command = peer.partition("=")
        runs[name] = partial(last_number, command.format(docs=asked.docs, most=asked.most))
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(asked.rounds + 1):  # the first warms up
        for name, run in runs.items():
            if number:
                rates[name].append(run())
            elif not any(name == peer.partition("=")[0] for peer in asked.peer):
                run()
    for name, values in rates.items():
        middle = statistics.median(values)
        print(
            f"  {name:22} {middle:9,.0f} docs/s [{min(values):,.0f}-{max(values):,.0f}] {middle * megabytes:6.1f} MB/s"
        )
    agreement(texts)
    if asked.kept:
        decisions(texts, asked.kept)


if __name__ == "__main__":
    main()
