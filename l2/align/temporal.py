"""A sense of time: facts with dates as dialogs whose answer depends on the date that is stated (paper §5.1, Figure 22).

A fact has a question (`prompt`), its `answer`, the `date` of the event, before which the question makes no sense, and
maybe what to say `before` it. The date of the query stands before the question, as in the paper's figure:
"Date: 01/02/2023". Wording of what is said before the event, and how far from it dates are drawn, are ours.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator
from typing import Any

from l2.files.errors import BadInput
from l2.files.jsonl import Record
from l2.generate.engine import prompt_key
from l2.tokens.chat import check_messages

NOT_YET = "That has not happened yet."
FARTHEST = 20 * 365  # days between the event and a drawn date
YEARS = "{years}"  # in an answer: whole years since the event


def event_date(record: Record) -> datetime.date:
    """The record's `date`. Raises BadInput for one that is no date, written 2009-01-20."""
    try:
        return datetime.date.fromisoformat(record.need("date"))
    except ValueError:
        raise BadInput(record.where, f"date {record['date']!r}", "a date such as 2009-01-20") from None


def stated(day: datetime.date) -> str:
    """How a date is told to the model."""
    return f"Date: {day:%m/%d}/{day.year:04}"  # %Y alone would write the year 44 as 44


def asked_on(record: Record, day: datetime.date) -> list[dict[str, Any]]:
    """The question with the day on which it is asked. Raises BadInput for a prompt that forges a chat tag."""
    messages = [
        {"role": "system", "content": stated(day)},
        {"role": "user", "content": record.need("prompt")},
    ]
    return check_messages(messages, record.where)


def years_between(event: datetime.date, day: datetime.date) -> int:
    """Whole years from the event to the day."""
    return day.year - event.year - ((day.month, day.day) < (event.month, event.day))


def answer_on(record: Record, day: datetime.date) -> str:
    """What a model that knows the time says: the answer, with YEARS filled in, or that it has not happened."""
    event = event_date(record)
    if day < event:
        return str(record.need("before")) if record.get("before") is not None else NOT_YET
    return str(record.need("answer")).replace(YEARS, str(years_between(event, day)))


def tells(record: Record, response: str) -> bool:
    """Whether the response has the answer in it, with whatever number of years; case does not count."""
    parts = [re.escape(part) for part in str(record.need("answer")).split(YEARS)]
    return re.search(r"-?\d+".join(parts), response, re.IGNORECASE) is not None


def shifted(day: datetime.date, days: int) -> datetime.date:
    """`days` later, within the years that the calendar has."""
    number = min(max(day.toordinal() + days, 1), datetime.date.max.toordinal())
    return datetime.date.fromordinal(number)


def dated_dialogs(records: Iterable[Record], seed: int) -> Iterator[dict[str, Any]]:
    """Two dialogs of each fact, asked on a day after the event and on one before it, as functions of (seed, id).

    They have `query_date` and `event_date`. Raises BadInput for a fact without a field or with a date that is none.
    """
    for record in records:
        event = event_date(record)
        for side in (1, -1):
            days = 1 + prompt_key(f"date {seed} {record.identity} {side}") % FARTHEST
            day = shifted(event, side * days)
            answer = {"role": "assistant", "content": answer_on(record, day)}
            yield {
                "messages": check_messages([*asked_on(record, day), answer], record.where),
                "id": f"{record.identity} {'after' if side > 0 else 'before'}",
                "query_date": day.isoformat(),
                "event_date": event.isoformat(),
            }
