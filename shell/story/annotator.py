"""The simulated annotator: it gives the preferences that a person might give, and it scores.

There are no human preference pairs to be had here, so a program stands in for the people, as in much of the literature
on reward models. It compares two answers by the gold score (gold.py), adds noise, drops the numbers and keeps what the
paper's annotators gave (§3.2.1): which answer is better, in four degrees, and for safety which of the two are safe.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from itertools import groupby
from typing import Annotated, Any, Literal

import typer
import xxhash
from gold import HARM_COST, UNSAFE, gold, harm, read_lexicon
from scripts import run

from cmds.options import Inputs, Output
from l2.files.errors import BadInput
from l2.files.jsonl import Record, open_writer, read_records

GOLD_WEIGHT = 0.5
HARM_WEIGHT = HARM_COST * GOLD_WEIGHT  # of the two, when the question is which answer is safer

NOISE = 0.1  # scale of the logistic noise (Bradley-Terry) on a difference of scores
# Differences from which a preference is called so: about a quarter of the pairs of an SFT model each.
RATINGS = ((1.5, "significantly"), (0.9, "better"), (0.45, "slightly"), (0.0, "negligibly"))

Kind = Literal["helpful", "safe"]


def noise(*key: str) -> float:
    """Logistic noise of scale NOISE, always the same for the same `key`."""
    uniform = (xxhash.xxh64_intdigest("\0".join(key).encode()) + 0.5) / 2**64
    return NOISE * math.log(uniform / (1.0 - uniform))


def rating(difference: float) -> str:
    """The paper's word for how much better the preferred answer is."""
    return next(name for threshold, name in RATINGS if difference >= threshold)


def prefer(
    prompt: str, answers: tuple[str, str], kind: Kind, lexicon: AbstractSet[str], *key: str
) -> dict[str, str] | None:
    """The preference between two answers: chosen, rejected, rating, kind and, for "safe", which are safe.

    None where the unsafe answer of a pair was preferred to the safe one: the paper leaves such pairs out (§3.2.1).
    """
    worth = [gold(prompt, answer, lexicon) for answer in answers]
    harms = [harm(answer) for answer in answers]
    difference = worth[0] - worth[1]
    if kind == "safe":  # two answers as safe as each other are compared by their worth
        difference = GOLD_WEIGHT * difference - HARM_WEIGHT * (harms[0] - harms[1])
    difference += noise(kind, *key, *answers)
    best = 0 if difference >= 0 else 1
    record = {"chosen": answers[best], "rejected": answers[1 - best], "rating": rating(abs(difference)), "kind": kind}
    if kind == "safe":
        unsafe = harms[best] >= UNSAFE, harms[1 - best] >= UNSAFE
        if unsafe == (True, False):
            return None
        record["safety"] = {(False, True): "chosen_safe", (False, False): "both_safe"}.get(unsafe, "both_unsafe")
    return record


def question(record: Record) -> str:
    """The last thing the user said in the prompt of `record`."""
    prompt = record.need("prompt", (str, list))
    if isinstance(prompt, str):
        return prompt
    if not prompt or not isinstance(prompt[-1], dict) or not isinstance(prompt[-1].get("content"), str):
        raise BadInput(record.where, "a prompt without messages", "messages that end with the user's")
    return str(prompt[-1]["content"])


def couples(samples: Iterable[Record]) -> Iterator[tuple[Record, Record]]:
    """What to compare: each two samples of a prompt that follow one another, and the first with a stranger.

    The stranger is the first answer to the prompt before. Samples of one prompt are much alike; from strangers a
    reward model learns that an answer must fit its question. Samples of one prompt stand together, as `l2 generate`
    writes them, and no sample is taken for the same purpose twice.
    """
    stranger: Record | None = None
    for _, group in groupby(samples, key=lambda record: (record.get("id"), str(record.need("prompt", (str, list))))):
        answers = list(group)
        yield from zip(answers[::2], answers[1::2], strict=False)
        if stranger is not None:
            yield answers[0], stranger
        stranger = answers[0]


def preferences(
    samples: Iterable[Record], kind: Kind, lexicon: AbstractSet[str], seed: int, counts: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Preferences between the `couples` of `samples`; of kind "safe" only between answers to one safety prompt.

    `counts` is added to: what was written, and what was left out and why.
    """
    for number, (a, b) in enumerate(couples(samples)):
        if kind == "safe" and not (a.get("safety") and a.get("id") == b.get("id")):
            counts["no safety pair"] += 1
            continue
        both = a.need("response").strip(), b.need("response").strip()
        if both[0] == both[1]:
            counts["the same answer twice"] += 1
        elif (pair := prefer(question(a), both, kind, lexicon, str(seed), str(a.get("id")))) is None:
            counts["unsafe preferred to safe"] += 1
        else:
            counts["written"] += 1
            yield {"prompt": a["prompt"], **pair, "id": f"{kind}/{number}", "source": "simulated"}


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


Lexicon = Annotated[str, typer.Option(help="Words that are words: lexicon.txt of data.py.")]


@app.command()
def pairs(
    lexicon: Lexicon,
    samples: Inputs = None,
    kind: Annotated[Kind, typer.Option(help="What is asked for: the better answer, or the safer one.")] = "helpful",
    seed: Annotated[int, typer.Option(help="Of the annotator's noise.")] = 0,
    output: Output = "-",
) -> None:
    """Samples to preferences.

    Example: l2 generate --model sft --prompts p.jsonl -n 2 | python annotator.py pairs --lexicon lexicon.txt
    """
    known, counts = read_lexicon(lexicon), Counter[str]()
    with open_writer(output) as writer:
        for record in preferences(read_records(samples or ()), kind, known, seed, counts):
            writer.write(record)
    print(f"annotator.py: {', '.join(f'{n:,} {what}' for what, n in counts.items())}", file=sys.stderr)


@app.command()
def score(lexicon: Lexicon, samples: Inputs = None, output: Output = "-") -> None:
    """Samples to the same samples with `gold` and `harm`.

    Example: python annotator.py score --lexicon lexicon.txt samples.jsonl -o scores.jsonl
    """
    known = read_lexicon(lexicon)
    with open_writer(output) as writer:
        for record in read_records(samples or ()):
            asked, answer = question(record), record.need("response")
            writer.write(record | {"gold": round(gold(asked, answer, known), 6), "harm": harm(answer)})


if __name__ == "__main__":
    run(app)
