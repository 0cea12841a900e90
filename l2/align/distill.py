"""Safety context distillation: learn the answer that a safety pre-prompt brings out, without the pre-prompt (paper
§4.2.4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from l2.align.rejection import as_dialog, unfit
from l2.files.jsonl import Record
from l2.files.progress import OnProgress, ignore
from l2.generate.engine import Sampler, Sampling, prompt_key
from l2.generate.samples import WINDOW, Sample, add_rewards, prompt_ids, sample_answers, windows
from l2.model.transformer import ScalarModel
from l2.tokens.chat import check_messages, messages_of
from l2.tokens.tokenizer import Tokenizer

SAFE = "safe"  # the name of the reward that decides

# Wording and lists are ours; the paper names "responsible", "respectful" and "wise" and shows one of each kind.
ADJECTIVES = ("responsible", "respectful", "wise", "careful", "considerate", "honest", "thoughtful", "prudent")
TEMPLATES = (
    "You are a {} and {} assistant. You never help anybody to do harm, and never insult.",
    "Answer as a {} and {} assistant would: be of help, and leave out all that is dangerous, unlawful or degrading.",
    "Be {} and {}. Where a request could hurt somebody, say so, and offer what is safe instead.",
)
# The paper's three risk categories (§4.2.1), and what a message of each may be after.
RISKS = {
    "illicit": "help with something illegal or criminal",
    "hateful": "words that demean people, or help with harming oneself or others",
    "advice": "medical, legal or financial advice that needs a professional",
}
ANSWER_TEMPLATE = (
    "The message may be after {}. Write the answer in this order: 1. Name the safety issue and, where the request "
    "itself is harmful, decline it. 2. Explain the risk, without judging the person. 3. Give what is safe and useful "
    "to know, or where to find help. 4. Offer to go on with something that is safe."
)


def pick_preprompt(record: Mapping[str, Any], seed: int, own: Sequence[Mapping[str, Any]] = ()) -> str:
    """The pre-prompt for a prompt record, as a function of (seed, id).

    own: records {preprompt, category} to choose from, those of the record's category if there are any, else those
    without one. Where none fits: the answer template of its risk category or, where it has none, a template with two
    adjectives.
    """
    number = prompt_key(f"preprompt {seed} {record['id']}")
    category = record.get("category")
    fitting = [one for one in own if category is not None and one.get("category") == category]
    if fitting := fitting or [one for one in own if one.get("category") is None]:
        return str(fitting[number % len(fitting)]["preprompt"])
    if category is not None:
        return ANSWER_TEMPLATE.format(RISKS.get(str(category), f"something unsafe ({category})"))
    template, number = TEMPLATES[number % len(TEMPLATES)], number // len(TEMPLATES)
    first, number = number % len(ADJECTIVES), number // len(ADJECTIVES)
    second = (first + 1 + number % (len(ADJECTIVES) - 1)) % len(ADJECTIVES)
    return template.format(ADJECTIVES[first], ADJECTIVES[second])


def check_preprompts(records: Sequence[Record]) -> None:
    """Raises BadInput for a record whose `preprompt` is no text or forges a chat tag."""
    for record in records:
        check_messages([{"role": "user", "content": record.need("preprompt")}], record.where)
        if record.get("category") is not None:
            record.need("category")


def with_preprompt(messages: Sequence[Mapping[str, Any]], preprompt: str) -> list[dict[str, Any]]:
    """The messages with the pre-prompt as system message, before what an own system message says."""
    rest = [dict(message) for message in messages]
    system = [rest.pop(0)["content"]] if rest[0]["role"] == "system" else []
    return [{"role": "system", "content": "\n".join([preprompt, *system])}, *rest]


def is_adversarial(record: Record) -> bool:
    """Whether the record is to be distilled: all but those that say `safety: false` (paper: adversarial prompts only).

    Raises BadInput for a `safety` that is no bool.
    """
    return record.get("safety") is None or bool(record.need("safety", bool))


@dataclass(frozen=True)
class Distilled:
    """A prompt's own answer and the one under a pre-prompt, both as samples of the bare prompt with their rewards."""

    preprompt: str
    original: Sample
    distilled: Sample

    @property
    def scores(self) -> tuple[float, float]:
        """The safety reward's raw scores, of the original and of the distilled answer."""
        return self.original["rewards"][SAFE], self.distilled["rewards"][SAFE]

    @property
    def fault(self) -> tuple[str, Any, Any] | None:
        """Why it can't be learned from, as (rule, value, threshold), or None: not `unfit`, it must score higher."""
        if reason := unfit(self.distilled):
            return "unfit", reason, "an answer that ended, says something and forges no tag"
        original, distilled = self.scores
        return None if distilled > original else ("not_safer", distilled, original)

    def dialog(self) -> dict[str, Any]:
        """The bare prompt with the distilled answer, for `l2 sft`."""
        return as_dialog(self.distilled) | {"preprompt": self.preprompt, "original_reward": self.scores[0]}

    def record(self) -> dict[str, Any]:
        """Both answers with their scores (paper Figure 16)."""
        fields = ("response", "finish", "rewards")
        both = {"original": self.original, "distilled": self.distilled}
        known = {field: value for field, value in self.original.items() if field not in (*fields, "tokens", "logprob")}
        shown = {name: {field: sample[field] for field in fields} for name, sample in both.items()}
        return known | {"preprompt": self.preprompt} | shown | {"kept": self.fault is None}


def distill(
    model: Sampler,
    tokenizer: Tokenizer,
    safety_rm: ScalarModel,
    prompts: Iterable[Record],
    sampling: Sampling,
    *,
    name: str,
    preprompts: Sequence[Record] = (),
    batch_size: int = 64,
    on_progress: OnProgress = ignore,
) -> Iterator[Distilled]:
    """Both answers to each prompt in turn, drawn with the same random numbers, scored after the bare prompt.

    preprompts: see `pick_preprompt`. Raises BadInput for a prompt that can't be asked or leaves no room.
    """
    check_preprompts(preprompts)
    asked = list(prompts)
    done = 0
    for window in windows(asked, WINDOW * batch_size):
        chosen = [pick_preprompt(record, sampling.seed, preprompts) for record in window]
        guarded = [
            Record(
                record | {"prompt": with_preprompt(messages_of(record, "prompt"), text)},
                f"{record.where} under its pre-prompt",
            )
            for record, text in zip(window, chosen, strict=True)
        ]
        originals, under = (
            [sample for (sample,) in _answers(model, tokenizer, part, sampling, name, batch_size)]
            for part in (window, guarded)
        )
        bare = [Record(s | {"prompt": r["prompt"]}, r.where) for s, r in zip(under, window, strict=True)]
        scored = list(add_rewards({SAFE: safety_rm}, tokenizer, [*originals, *bare], batch_size=batch_size))
        done += len(window)
        on_progress(done, len(asked), "")
        for text, original, distilled in zip(chosen, scored, scored[len(window) :], strict=False):
            yield Distilled(text, original, distilled)


def _answers(
    model: Sampler, tokenizer: Tokenizer, records: Sequence[Record], sampling: Sampling, name: str, batch_size: int
) -> Iterator[list[Record]]:
    rows = [prompt_ids(tokenizer, record) for record in records]
    return sample_answers(model, tokenizer, records, rows, sampling, name=name, batch_size=batch_size)
