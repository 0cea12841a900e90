"""Who compares what: the rules of annotation (paper §3.2.1) as a state that events lead to, free of files and web.

A person sees a conversation and two answers, blind and in random order, chooses one, and says how much better it is
and, in safety work, which of the two are safe. What people do becomes an event; `apply` leads the board on, so that
the events alone make it again. Nothing else changes it but the holds (who is looking at what), which end with the
process.

| event  | made by  | what it does                                                                    |
|--------|----------|---------------------------------------------------------------------------------|
| choice | `choose` | an item is judged; its `record` is the preference, or none for attention checks |
| skip   | `skip`   | somebody else may judge the item                                                |
| ask    | `ask`    | the person wrote a prompt, an item of their own: new, changed, or the next turn |
| end    | `end`    | no further turn of this dialog                                                  |
| undo   | `undo`   | takes the person's last event back                                              |
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from l2.align.losses import RATINGS
from l2.align.preferences import SAFE
from l2.files.errors import BadInput, L2Error
from l2.generate.engine import prompt_key
from l2.tokens.chat import check_messages

Messages = list[dict[str, Any]]
Event = dict[str, Any]

HOLD_SECONDS = 1800.0  # after which an item somebody left open is given to the next (ours)
CHECK_EVERY = 10  # one attention check in so many judgements (ours)
LONGEST = 20_000  # characters a person may write at once (ours)


class Stale(L2Error):
    """What somebody answered to is not what they are to answer to now: in another tab, they were faster."""


@dataclass(frozen=True)
class Answer:
    """One of the two answers, and what wrote it."""

    text: str
    model: str | None = None
    temperature: float | None = None


@dataclass(eq=False)
class Item:
    """Two answers to compare. `answers` is None until they are sampled, `failed` says why they never will be."""

    id: str
    messages: Messages
    answers: tuple[Answer, Answer] | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)  # that pass through to the preference
    check: bool = False  # the first answer is known to be better
    owner: str | None = None  # who wrote its prompt, and alone sees it
    dialog: str = ""  # the id that its turns share
    turn: int = 1
    failed: str = ""


@dataclass
class Hold:
    """What a person looks at, since when; `seen` once its answers are there."""

    item: str
    since: float
    seen: bool = False


class Board:
    """All items, and who has done what with them.

    overlap: judgements of each listed item, by as many people. turns: of a dialog at most, of which the person writes
    those after the first. writing: people write the first prompts, too. Times are seconds since 1970.
    """

    def __init__(
        self,
        items: Sequence[Item],
        checks: Sequence[Item] = (),
        *,
        safety: bool = False,
        overlap: int = 1,
        turns: int = 1,
        writing: bool = False,
        source: str = "human",
        seed: int = 0,
    ) -> None:
        self.safety, self.overlap, self.turns, self.writing = safety, overlap, turns, writing
        self.source, self.seed = source, seed
        self.listed, self.checks = [item.id for item in items], [item.id for item in checks]
        self.items: dict[str, Item] = {}
        for item in (*items, *checks):
            if item.id in self.items:
                raise BadInput(f"item {item.id!r}", "the same id twice", "ids that differ")
            self.items[item.id] = item
        self.events = 0
        self.records: dict[int, dict[str, Any]] = {}  # by the number of the event
        self._stacks: dict[str, list[Event]] = defaultdict(list)  # what each person did and did not undo
        self._asked: dict[str, list[str]] = defaultdict(list)  # the items whose prompts each person wrote
        self._done: dict[str, set[str]] = defaultdict(set)
        self._skipped: dict[str, set[str]] = defaultdict(set)
        self._holds: dict[str, Hold] = {}
        self._written = 0
        self._first = 0  # no listed item before this one is open

    # What is to be done

    def current(self, who: str, now: float) -> Item | None:
        """The item that `who` is to compare now, which nobody else gets meanwhile; None where there is none."""
        hold = self._holds.get(who)
        item = self.items[hold.item] if hold else None
        if item is None or (item.failed and item.owner is None):
            self._holds.pop(who, None)
            item = self._next(who, now)
            hold = Hold(item.id, now) if item else None
        if hold and item:
            self._holds[who] = hold
            if item.answers and not hold.seen:  # the time runs from when there is something to see
                hold.since, hold.seen = now, True
        return item

    def _next(self, who: str, now: float) -> Item | None:
        item = self._own(who)
        if item is not None or self.asked_for_turn(who):
            return item
        item = self._open(who, now)
        return (self._due_check(who) if item or self.writing else None) or item

    def asked_for_turn(self, who: str) -> Event | None:
        """The choice after which `who` is to write the dialog's next turn or to end it."""
        last = self._stacks[who][-1] if self._stacks[who] else None
        if last is None or last["event"] != "choice" or "record" not in last or last["turn"] >= self.turns:
            return None
        return last

    def order(self, who: str, item: Item) -> tuple[int, int]:
        """Which answer stands left, and which right: drawn for each person and item."""
        return (0, 1) if self._draw(who, item.id) % 2 else (1, 0)

    @property
    def complete(self) -> bool:
        """Whether all listed items are judged often enough and no dialog is open; never where people write prompts."""
        people = [who for who, stack in self._stacks.items() if stack]
        open_dialogs = any(self._own(who) or self.asked_for_turn(who) for who in people)
        return not self.writing and not open_dialogs and next(self._coming(), None) is None

    def others_hold(self, who: str) -> bool:
        """Whether there may be something left for `who` that others look at."""
        return any(who not in self._done[hold.item] for other, hold in self._holds.items() if other != who)

    def can_undo(self, who: str) -> bool:
        """Whether `who` did anything that was not taken back."""
        return bool(self._stacks[who])

    def wanted(self, ahead: int) -> list[Item]:
        """Items whose answers are to be sampled: those that people wait for, then the next `ahead` of the list."""
        owned = [item for item in self.items.values() if item.owner is not None and not self._done[item.id]]
        held = [self.items[hold.item] for hold in self._holds.values()]
        coming = [self.items[name] for name in self._coming()][:ahead]
        waiting = {item.id: item for item in (*owned, *held, *coming)}
        return [item for item in waiting.values() if item.answers is None and not item.failed]

    def progress(self, who: str, now: float) -> dict[str, Any]:
        """Judgements by `who`, their number in an hour at the pace of the last one, and those of all listed items."""
        mine = [event for event in self._stacks[who] if event["event"] == "choice"]
        recent = [event for event in mine if now - event["time"] < 3600]
        taken = now - (recent[0]["time"] - recent[0]["seconds"]) if recent else 0.0
        sampled = [name for name in self.listed if not self.items[name].failed]
        return {
            "mine": len(mine),
            "per_hour": round(3600 * len(recent) / taken) if taken > 0 else None,
            "done": sum(min(len(self._done[name]), self.overlap) for name in sampled),
            "total": len(sampled) * self.overlap,
        }

    # What people do

    def choose(
        self, who: str, item_id: str, position: int, rating: str, safety: str | None, now: float, **more: Any
    ) -> Event:
        """The event of choosing the answer at `position` (0 left, 1 right). `more` is put into the preference.

        Raises Stale where `who` is not to judge this item, and BadInput for what is no choice.
        """
        item = self._held(who, item_id)
        if item.answers is None:
            raise Stale("the answers are not there yet")
        if type(position) is not int or position not in (0, 1) or rating not in RATINGS:
            raise BadInput("choice", f"{position!r}, {rating!r}", f"0 or 1, and one of {', '.join(RATINGS)}")
        if (safety not in SAFE) if self.safety else (safety is not None):
            raise BadInput("choice", f"safety {safety!r}", f"one of {', '.join(SAFE)}" if self.safety else "no label")
        order = self.order(who, item)
        better, seconds = order[position], round(max(0.0, now - self._holds[who].since), 2)
        event = self._event("choice", who, now, item=item.id, dialog=item.dialog, turn=item.turn, better=better)
        event |= {"left": position == 0, "rating": rating, "seconds": seconds}
        event |= {"safety": safety} if self.safety else {}
        if item.check:
            return event | {"passed": better == 0}
        return event | {"record": self._preference(item, event) | more}

    def skip(self, who: str, item_id: str, now: float) -> Event:
        """The event of leaving an item to others. Raises Stale as `choose`."""
        return self._event("skip", who, now, item=self._held(who, item_id).id)

    def ask(self, who: str, text: str, now: float, edit: str | None = None) -> Event:
        """The event of writing a prompt: of item `edit` anew, of the dialog's next turn, or of a new dialog.

        Raises BadInput for a text that is empty, too long, or forges a tag of the chat format; Stale where no prompt is
        asked for.
        """
        text = text.strip()
        if not text or len(text) > LONGEST:
            raise BadInput("your text", f"{len(text):,} characters", f"1 to {LONGEST:,}")
        said = {"role": "user", "content": text}
        number, last = self._written + 1, self.asked_for_turn(who)
        if edit is not None:
            of = self._held(who, edit)
            dialog = f"{of.dialog or of.id}@{who}-{number}"
            event = {"of": of.id, "messages": [*of.messages[:-1], said], "turn": of.turn, "fields": dict(of.fields)}
        elif last is not None:
            of = self.items[last["item"]]
            dialog = of.dialog if of.owner else f"{of.id}@{who}"
            answer = {"role": "assistant", "content": last["record"]["chosen"]}
            event = {
                "of": None,
                "messages": [*of.messages, answer, said],
                "turn": of.turn + 1,
                "fields": dict(of.fields),
            }
        elif self.writing and who not in self._holds and self._own(who) is None:
            dialog = f"{who}-{number}"
            event = {"of": None, "messages": [said], "turn": 1, "fields": {}}
        else:
            raise Stale("no prompt is asked for now")
        check_messages(event["messages"], "your text")
        name = f"{dialog}#{event['turn']}"
        return self._event("ask", who, now, item=name, dialog=dialog, **event)

    def end(self, who: str, now: float) -> Event:
        """The event of writing no further turn. Raises Stale where none is asked for."""
        last = self.asked_for_turn(who)
        if last is None:
            raise Stale("no turn is asked for now")
        return self._event("end", who, now, item=last["item"])

    def undo(self, who: str, now: float) -> Event:
        """The event of taking back what `who` did last. Raises Stale where there is nothing."""
        if not self._stacks[who]:
            raise Stale("there is nothing to undo")
        return self._event("undo", who, now, undoes=self._stacks[who][-1]["n"])

    def apply(self, event: Event) -> None:
        """Lead the board on by an event that was made here, or by this one's forerunner before a restart."""
        who, kind, now = event["who"], event["event"], event["time"]
        self.events = max(self.events, event["n"])
        self._holds.pop(who, None)
        if kind == "undo":
            self._take_back(self._stacks[who].pop(), now)
            return
        self._stacks[who].append(event)
        if kind == "choice":
            self._done[event["item"]].add(who)
            if "record" in event:
                self.records[event["n"]] = event["record"]
        elif kind == "skip":
            self._skipped[event["item"]].add(who)
        elif kind == "ask":
            self._written += 1
            self._asked[who].append(event["item"])
            if event["of"] is not None:
                self._done[event["of"]].add(who)
            self.items[event["item"]] = Item(
                event["item"], event["messages"], None, event["fields"], False, who, event["dialog"], event["turn"]
            )

    def release(self) -> None:
        """Let everybody's items go: after a restart nobody looks at anything."""
        self._holds.clear()

    # The rest

    def _take_back(self, event: Event, now: float) -> None:
        who, kind, again = event["who"], event["event"], event["item"]
        self._first = 0
        if kind == "choice":
            self._done[again].discard(who)
            self.records.pop(event["n"], None)
        elif kind == "skip":
            self._skipped[again].discard(who)
        elif kind == "ask":
            del self.items[self._asked[who].pop()]
            if (again := event["of"]) is not None:
                self._done[again].discard(who)
        if kind == "skip" and again in self.listed and not self._room(again, now):
            return  # others have it
        if kind != "end" and again is not None:
            self._holds[who] = Hold(again, now)

    def _draw(self, *key: str | int) -> int:
        return prompt_key("\0".join(map(str, (self.seed, *key)))) >> 8

    def _held(self, who: str, item_id: str) -> Item:
        """The item, where `who` has it before them."""
        hold = self._holds.get(who)
        if hold is None or hold.item != item_id:
            raise Stale("this one is done already, or it was given to somebody else")
        return self.items[item_id]

    def _own(self, who: str) -> Item | None:
        """The item whose prompt `who` wrote and has not judged yet."""
        if not self._asked[who]:
            return None
        item = self.items[self._asked[who][-1]]
        return None if who in self._done[item.id] or who in self._skipped[item.id] else item

    def _coming(self) -> Iterator[str]:
        """Listed items that are not judged often enough yet, in order."""
        while self._first < len(self.listed) and self._complete(self.listed[self._first]):
            self._first += 1
        return (name for name in self.listed[self._first :] if not self._complete(name))

    def _complete(self, name: str) -> bool:
        return bool(self.items[name].failed) or len(self._done[name]) >= self.overlap

    def _open(self, who: str, now: float) -> Item | None:
        """The first listed item that lacks a judgement which `who` can give and nobody is about to."""
        unseen = (name for name in self._coming() if who not in self._done[name] | self._skipped[name])
        return next((self.items[name] for name in unseen if self._room(name, now)), None)

    def _room(self, name: str, now: float) -> bool:
        """Whether a listed item lacks a judgement that nobody is about to give."""
        looking = sum(hold.item == name and now - hold.since < HOLD_SECONDS for hold in self._holds.values())
        return not self.items[name].failed and len(self._done[name]) + looking < self.overlap

    def _due_check(self, who: str) -> Item | None:
        """An attention check, once in CHECK_EVERY judgements at a place that nobody can foresee."""
        if not self.checks:
            return None
        mine = [event["item"] for event in self._stacks[who] if event["event"] == "choice"]
        block, place = divmod(len(mine), CHECK_EVERY)
        due = block + (place >= self._draw(who, block) % CHECK_EVERY)
        met = {*mine, *(name for name in self.checks if who in self._skipped[name] or who in self._done[name])}
        left = [name for name in self.checks if name not in met]
        return self.items[left[0]] if left and len(self.checks) - len(left) < due else None

    def _event(self, kind: str, who: str, now: float, **more: Any) -> Event:
        return {"event": kind, "n": self.events + 1, "who": who, "time": round(now, 3)} | more

    def _preference(self, item: Item, event: Event) -> dict[str, Any]:
        """The preference record of a choice (design.md §2), with who made it, how long it took, and what was hidden."""
        assert item.answers is not None, "it was chosen from"
        chosen, rejected = item.answers[event["better"]], item.answers[1 - event["better"]]
        label = {"safety": event["safety"]} if self.safety else {}
        record = {"prompt": item.messages, "chosen": chosen.text, "rejected": rejected.text, "rating": event["rating"]}
        record |= label | {"kind": "safe" if self.safety else "helpful", "source": self.source, "id": item.id}
        record |= {"who": event["who"], "seconds": event["seconds"], "turn": item.turn}
        record |= {"models": {"chosen": chosen.model, "rejected": rejected.model}}
        record |= {"temperatures": {"chosen": chosen.temperature, "rejected": rejected.temperature}}
        record |= {"shown": ["chosen", "rejected"] if event["left"] else ["rejected", "chosen"]}
        return {**item.fields, **record}
