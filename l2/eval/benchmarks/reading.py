"""NaturalQuestions, TriviaQA, SQuAD, QuAC, BoolQ (paper Table 23): a record to a question, an answer to its scores."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from statistics import fmean

from l2.eval.benchmarks.question import Item, Question, Scores, nested, number_of, texts
from l2.eval.metrics import exact_match, word_f1
from l2.files.errors import BadInput
from l2.files.jsonl import Record

NO_ANSWER = "unanswerable"


def first_line(response: str) -> str:
    """The first line, without a dot or comma that ends it (Llama 1, appendix A)."""
    return response.strip().partition("\n")[0].strip().rstrip(".,").strip()


def any_target(responses: Sequence[str], item: Item) -> Scores:
    """Exact match of the first line with any target, as SQuAD compares them."""
    return {"exact_match": fmean([exact_match(first_line(text), item["targets"]) for text in responses])}


def harness_form(text: str, ignored: str = "") -> str:
    """lm-evaluation-harness: what `ignored` matches goes first, then case, then punctuation; spaces stay."""
    text = re.sub(ignored, "", text) if ignored else text
    return text.lower().translate(str.maketrans("", "", string.punctuation))


ARTICLES = r"\b(?:The |the |An |A |The |a |an )"  # of nq_open.yaml


def harness_nq(responses: Sequence[str], item: Item) -> Scores:
    """Exact match without articles that a space follows."""
    targets = {harness_form(target, ARTICLES) for target in item["targets"]}
    return {"exact_match": fmean([harness_form(text.strip(), ARTICLES) in targets for text in responses])}


def harness_triviaqa(responses: Sequence[str], item: Item) -> Scores:
    """Exact match without case and punctuation."""
    targets = {harness_form(target) for target in item["targets"]}
    return {"exact_match": fmean([harness_form(text.strip()) in targets for text in responses])}


def nq_targets(record: Record) -> tuple[str, tuple[str, ...]]:
    """Question and answers of NQ-open."""
    targets = tuple(texts(record, "answer"))
    if not targets:
        raise BadInput(record.where, "no answer", "at least one")
    return record.need("question"), targets


def nq(record: Record) -> Question:
    """A question as people type it, without its mark; any of the answers."""
    question, targets = nq_targets(record)
    return Question(record, f"Q: {question.rstrip('?').rstrip()}?\nA:", targets=targets)


def nq_harness(record: Record) -> Question:
    """The same with a mark more, where one stands already."""
    question, targets = nq_targets(record)
    return Question(record, f"Q: {question}?\nA:", targets=targets)


def trivia_records(record: Record) -> Iterator[Record]:
    """The questions of `Data` in TriviaQA's own files."""
    if "Data" not in record:
        yield record
        return
    for i in range(len(record.need("Data", list))):
        yield nested(record, "Data", i)


def trivia_targets(record: Record) -> tuple[str, tuple[str, ...]]:
    """Question and aliases of TriviaQA's own files (capitals) or of their parquet; the value comes first."""
    own = "Answer" in record
    answer = nested(record, "Answer" if own else "answer")
    aliases = texts(answer, "Aliases" if own else "aliases")
    value = answer.need("Value" if own else "value")
    return record.need("Question" if own else "question"), tuple(dict.fromkeys([value, *aliases]))


def triviaqa(record: Record) -> Question:
    """A trivia question, in the form of NaturalQuestions."""
    question, targets = trivia_targets(record)
    return Question(record, f"Q: {question.rstrip('?').rstrip()}?\nA:", targets=targets)


def triviaqa_harness(record: Record) -> Question:
    """lm-evaluation-harness: another form, a mark more, aliases alone."""
    question, targets = trivia_targets(record)
    answer = nested(record, "Answer" if "Answer" in record else "answer")
    aliases = tuple(answer.get("Aliases") or answer.get("aliases") or targets)
    return Question(record, f"Question: {question}?\nAnswer:", targets=aliases)


def squad_records(record: Record) -> Iterator[Record]:
    """The questions of `data` in SQuAD's own file, each with its title and passage."""
    if "data" not in record:
        yield record
        return
    for i in range(len(record.need("data", list))):
        article = nested(record, "data", i)
        for j in range(len(article.need("paragraphs", list))):
            passage = nested(record, "data", i, "paragraphs", j)
            for k in range(len(passage.need("qas", list))):
                asked = nested(passage, "qas", k)
                shared = {"title": article.need("title"), "context": passage.need("context")}
                yield Record(asked | shared, asked.where)


def squad_targets(record: Record) -> tuple[str, ...]:
    """The answers; none where the question has none."""
    answers = record.need("answers", (list, dict))
    if isinstance(answers, dict):
        return tuple(texts(nested(record, "answers"), "text"))
    return tuple(nested(record, "answers", i).need("text") for i in range(len(answers)))


def squad_of(record: Record, title: str) -> Question:
    """A question about a passage; where it has no answer, the empty one is right (SQuAD 2)."""
    targets, context = squad_targets(record), record.need("context")
    asked = f"Title: {title}\n\nBackground: {context}\n\nQuestion: {record.need('question')}\n\nAnswer:"
    group = "has_answer" if targets else "no_answer"
    example = "" if targets else f" {NO_ANSWER}"
    return Question(record, asked, targets=targets or ("",), example=example, groups=(group,), cluster=context)


def squad(record: Record) -> Question:
    """The title in words."""
    return squad_of(record, record.need("title").replace("_", " "))


def squad_harness(record: Record) -> Question:
    """The title as it stands."""
    return squad_of(record, record.need("title"))


def squad_scores(responses: Sequence[str], item: Item) -> Scores:
    """Exact match and word F1, the best over the answers (Rajpurkar et al. 2018); "unanswerable" is no answer."""
    answers = [text.strip().partition("\n")[0].strip() for text in responses]
    answers = ["" if answer.rstrip(".").lower() == NO_ANSWER else answer for answer in answers]
    best = [max(word_f1(answer, target) for target in item["targets"]) for answer in answers]
    exact = [exact_match(answer, item["targets"]) for answer in answers]
    return {"exact_match": fmean(exact), "f1": fmean(best)}


def quac_records(record: Record) -> Iterator[Record]:
    """Each question of a dialog, with the earlier ones and their answers: QuAC's own file or its parquet."""
    if "questions" in record:
        yield from _quac_turns(record, *_quac_columns(record))
        return
    for i in range(len(record.need("data", list))):
        dialog = nested(record, "data", i)
        for j in range(len(dialog.need("paragraphs", list))):
            passage = nested(record, "data", i, "paragraphs", j)
            rows = [nested(passage, "qas", k) for k in range(len(passage.need("qas", list)))]
            turns = [(row.need("question"), nested(row, "orig_answer").need("text"), _answer_texts(row))
                     for row in rows]  # fmt: skip
            about = {"title": dialog.need("title"), "background": dialog.need("background"),
                     "section": dialog.need("section_title"), "context": passage.need("context")}  # fmt: skip
            yield from _quac_turns(passage, about, turns)


Turns = list[tuple[str, str, list[str]]]  # question, the answer that the dialog went on with, all answers


def _answer_texts(row: Record) -> list[str]:
    return [nested(row, "answers", i).need("text") for i in range(len(row.need("answers", list)))]


def _quac_columns(record: Record) -> tuple[dict[str, str], Turns]:
    questions = texts(record, "questions")
    given = texts(nested(record, "orig_answers"), "texts")
    every = nested(record, "answers").need("texts", list)
    about = {"title": record.need("wikipedia_page_title"), "background": record.need("background"),
             "section": record.need("section_title"), "context": record.need("context")}  # fmt: skip
    if not len(questions) == len(given) == len(every):
        raise BadInput(record.where, f"{len(questions)} questions, {len(given)} and {len(every)} answers", "as many")
    return about, list(zip(questions, given, every, strict=True))


def _quac_turns(record: Record, about: dict[str, str], turns: Turns) -> Iterator[Record]:
    for number, (question, _, answers) in enumerate(turns):
        earlier = [(asked, given) for asked, given, _ in turns[:number]]
        fields = {**about, "question": question, "answers": answers, "earlier": earlier, "turn": number + 1}
        yield Record(fields, f"{record.where}: question {number + 1}")


def quac(record: Record) -> Question:
    """A question of a dialog about a section, after the earlier ones with their answers."""
    passage = record["context"].removesuffix("CANNOTANSWER").strip()
    head = f"Title: {record['title']}\n\nBackground: {record['background']}\n\nSection: {record['section']}"
    earlier = "".join(f"Question: {asked}\n\nAnswer: {_told(given)}\n\n" for asked, given in record["earlier"])
    context = f"{head}\nPassage: {passage}\n\n{earlier}Question: {record['question']}\n\nAnswer:"
    targets = tuple(map(_told, record["answers"])) or ("",)
    return Question(record, context, targets=targets, cluster=f"{record['section']} {passage}")


def _told(answer: str) -> str:
    return NO_ANSWER if answer == "CANNOTANSWER" else answer


def best_f1(responses: Sequence[str], item: Item) -> Scores:
    """Word F1 of the first line, the best over the answers (Choi et al. 2018, for models)."""
    best = [max(word_f1(text.strip().partition("\n")[0], target) for target in item["targets"]) for text in responses]
    return {"f1": fmean(best)}


def boolq(record: Record) -> Question:
    """Yes or no, of a passage. SuperGLUE's export has a label in place of the answer."""
    if "answer" in record:
        answer = {"true": 1, "false": 0}.get(str(record["answer"]).lower())
        if answer is None:
            raise BadInput(record.where, f"answer {record['answer']!r:.40}", "true or false")
    else:
        answer = number_of(record, "label", 2)
    passage = record.need("passage")
    context = f"{passage}\nQuestion: {record.need('question')}?\nAnswer:"
    return Question(record, context, ("no", "yes"), (answer,), cluster=passage)
