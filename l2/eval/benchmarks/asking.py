"""Asking a model the questions of a suite: log-likelihoods of options, or answers that it writes."""

from __future__ import annotations

from collections.abc import Sequence

from l2.eval.benchmarks.question import Item
from l2.eval.benchmarks.suite import Suite, judged, new_item
from l2.eval.scored import encode_continuations
from l2.eval.subject import Subject
from l2.files.errors import BadInput, UsageError
from l2.files.jsonl import Record
from l2.files.progress import OnProgress
from l2.generate.engine import Sampling
from l2.generate.samples import sample_answers
from l2.generate.scoring import loglikelihood


def ask_suite(subject: Subject, suite: Suite, on_progress: OnProgress) -> list[Item]:
    """An item for each question, with its scores. `cut` counts the tokens that its prompt lost at the front."""
    items = (_choose if suite.rule.choose else _write)(subject, suite, on_progress)
    return [judged(suite.rule, item) for item in items]


def _choose(subject: Subject, suite: Suite, on_progress: OnProgress) -> list[Item]:
    """Log-likelihoods, in nats, of each option after its context and, where the rule asks, after its `prior`."""
    pairs = [
        (suite.prompt(question, context), f" {option}")
        for question in suite.questions
        for context, option in zip(question.contexts_of_options(), question.options, strict=True)
    ]
    wheres = [question.record.where for question in suite.questions for _ in question.options]
    rows = encode_continuations(subject.tokenizer, [*pairs, *_priors(suite)])
    limit = subject.model.config.max_seq_len
    subject.show(rows[0][0] + rows[0][1])
    contexts, continuations, cuts = [], [], []
    for number, (context, continuation) in enumerate(rows):
        if len(continuation) > limit:
            where = wheres[number % len(wheres)]  # priors stand behind, in the same order
            raise BadInput(where, f"an option of {len(continuation)} tokens", f"at most {limit}")
        cuts.append(max(0, len(context) + len(continuation) - 1 - limit))  # what the last token predicts isn't asked
        contexts.append(context[cuts[-1] :])
        continuations.append(continuation)
    nats = loglikelihood(subject.language_model, contexts, continuations, on_progress)
    items, start = [], 0
    for number, question in enumerate(suite.questions):
        part = slice(start, start + len(question.options))
        item = new_item(number, question) | {"cut": max(cuts[part]), "loglikelihoods": nats[part]}
        if suite.rule.prior:
            item["priors"] = nats[len(pairs) + part.start : len(pairs) + part.stop]
        items.append(item)
        start = part.stop
    return items


def _priors(suite: Suite) -> list[tuple[str, str]]:
    if not suite.rule.prior:
        return []
    return [(suite.rule.prior, f" {option}") for question in suite.questions for option in question.options]


def room(limit: int, tokens: int) -> int:
    """How many tokens a prompt may have before an answer of `tokens`: half of the context at least, or what is left."""
    return max(limit - tokens, limit // 2)


def _write(subject: Subject, suite: Suite, on_progress: OnProgress) -> list[Item]:
    """`responses` up to the first of the rule's stops, and what their judge needs."""
    rule, limit = suite.rule, subject.policy.config.max_seq_len
    prompts = [suite.prompt(question) for question in suite.questions]
    ids = [[subject.tokenizer.bos_id, *row] for row in subject.tokenizer.encode_batch(prompts)]
    rows = [row[-room(limit, rule.tokens) :] for row in ids]
    subject.show(rows[0])
    sampling = Sampling(rule.temperature, rule.top_p, rule.tokens, subject.sampling.seed)
    records = [Record({"id": f"{suite.name} {number}"}) for number in range(len(rows))]
    samples = sample_answers(
        subject.policy, subject.tokenizer, records, rows, sampling, name=subject.name, k=suite.samples,
        batch_size=subject.batch_size, stop=rule.stops, raw=True, on_progress=on_progress,
    )  # fmt: skip
    items = []
    for number, (question, answers) in enumerate(zip(suite.questions, samples, strict=True)):
        item = new_item(number, question) | {"cut": len(ids[number]) - len(rows[number])}
        item |= {"responses": [answer["response"] for answer in answers]}
        item["finish"] = [answer["finish"] for answer in answers]
        items.append(item)
    return _with_verdicts(subject, suite, items, on_progress)


def _with_verdicts(subject: Subject, suite: Suite, items: list[Item], on_progress: OnProgress) -> list[Item]:
    """Items with what others say of their responses: whether programs pass, how toxic texts are."""
    rule = suite.rule
    if rule.program:
        assert subject.execute is not None
        programs = [rule.program(text, item) for item in items for text in item["responses"]]
        verdicts: Sequence[bool] = subject.execute(programs, on_progress)
        per = suite.samples
        items = [item | {"passed": list(verdicts[i * per : (i + 1) * per])} for i, item in enumerate(items)]
    if rule.toxic:
        assert subject.toxicity is not None
        items = [item | {"toxicity": [subject.toxicity(text) for text in item["responses"]]} for item in items]
    return items


def check_suite(subject: Subject, suite: Suite) -> None:
    """Raises UsageError where `subject` can't do what the rule asks for."""
    if suite.rule.program and subject.execute is None:
        raise UsageError(f"{suite.name} runs what the model writes, and there is nothing to run it in")
    if suite.rule.toxic and subject.toxicity is None:
        raise UsageError(f"{suite.name} needs a judge of toxicity: give --toxicity")
