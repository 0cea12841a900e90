"""What a person is shown: the board as one of them may see it, blind to the models and to what is known of the item."""

from __future__ import annotations

from typing import Any

from l2.align.annotation.board import Board, Item, Messages


def _said(messages: Messages) -> list[dict[str, str]]:
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def view(board: Board, who: str, now: float, *, sampled: bool) -> dict[str, Any]:
    """The `state` that `who` is in, what it needs to be drawn, and their progress. `sampled`: models are at hand.

    compare: two answers, left and right; sampling: they are being written; failed: they can't be, write another prompt;
    turn: write the dialog's next turn, or end it; write: write a first prompt; wait: others hold what is left; done.
    """
    item = board.current(who, now)
    common = {"safety": board.safety, "turns": board.turns, "progress": board.progress(who, now)}
    common |= {"can_undo": board.can_undo(who), "editable": sampled}
    if item is not None:
        return common | _item(board, who, item)
    if last := board.asked_for_turn(who):
        of = board.items[last["item"]]
        answer = {"role": "assistant", "content": last["record"]["chosen"]}
        return common | {"state": "turn", "messages": _said([*of.messages, answer]), "turn": of.turn + 1}
    if board.writing:
        return common | {"state": "write", "messages": [], "turn": 1}
    return common | {"state": "wait" if board.others_hold(who) else "done"}


def _item(board: Board, who: str, item: Item) -> dict[str, Any]:
    shown = {"item": item.id, "messages": _said(item.messages), "turn": item.turn}
    if item.failed:
        return shown | {"state": "failed", "error": item.failed}
    if item.answers is None:
        return shown | {"state": "sampling"}
    return shown | {"state": "compare", "answers": [item.answers[side].text for side in board.order(who, item)]}
