"""What a run of PPO watches: alarms in plain words, and when to stop early (paper §3.2.3). Thresholds are ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from l2.align.ppo import Settings, Whitening

Line = dict[str, Any]

# How English answers decline; tags of a language the run does not speak find nothing, and raise no alarm.
REFUSAL = re.compile(
    r"\b(i (can't|cannot|can not|won't|will not|would rather not|am unable|am not able|am not allowed)"
    r"|i'm (unable|not able|not allowed)|i('m| am) sorry|i apologi[sz]e|as an ai|rather not)\b",
    re.IGNORECASE,
)
# Fields of the first line that alarms compare later ones with.
WATCHED = ("score_std", "length", "distinct_2", "refusal_rate", "helpful", "helpful_std", "safe", "safe_std")


def refusal_rate(responses: Iterable[str]) -> float | None:
    """Share of answers that decline in English, or None of no answers."""
    found = [
        REFUSAL.search(response.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")) is not None for response in responses
    ]
    return sum(found) / len(found) if found else None


@dataclass
class State:
    """All that goes on from one iteration to the next besides the models: what state.json holds."""

    step: int = 0
    tokens: int = 0
    whitening: Whitening = field(default_factory=Whitening)
    first: dict[str, float] = field(default_factory=dict)  # WATCHED fields of iteration 1
    best: float | None = None  # held-out reward
    best_step: int = 0
    misses: int = 0  # evaluations since then
    stopped: str = ""  # why it ended early

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> State:
        """What `asdict` gave."""
        return cls(**(dict(fields) | {"whitening": Whitening(**fields["whitening"])}))

    def remember(self, line: Line) -> None:
        """Keep what alarms compare with, once."""
        self.first = self.first or {name: line[name] for name in WATCHED if name in line}


def alarms(line: Line, state: State, settings: Settings) -> dict[str, str]:
    """What a person should hear of this iteration, as {name: sentence}, each with the numbers it speaks of."""
    first, found = state.first, {}
    whitened = settings.whitening in ("batch", "running")
    if whitened and line["score_std"] < 0.1 * first["score_std"]:
        found["whitening"] = (
            f"the spread of the scores fell from {first['score_std']:.3g} to {line['score_std']:.3g}, and whitening "
            "blows up what is left of it against beta; stop, or use --whiten frozen"
        )
    if line["kl"] > 0.5 * line["length"]:
        found["kl"] = (
            f"the KL to the reference is {line['kl']:.3g} nats an answer, over half a nat a token; "
            "raise --beta, or lower --lr"
        )
    if line["eos_rate"] < 0.5:
        found["truncation"] = (
            f"{1 - line['eos_rate']:.0%} of the answers were cut off without EOS; "
            "raise --max-new-tokens or --no-eos-penalty"
        )
    if not 0.5 < line["length"] / first["length"] < 2.0:
        found["length"] = f"answers went from {first['length']:.1f} to {line['length']:.1f} tokens on average"
    if line["distinct_2"] < 0.5 * first["distinct_2"]:
        found["repetition"] = (
            f"different word pairs fell from {first['distinct_2']:.0%} to {line['distinct_2']:.0%} of all: "
            "the answers become alike; stop, raise --beta, or lower --lr"
        )
    if line.get("refusal_rate", 0.0) > first.get("refusal_rate", 0.0) + 0.2:
        found["refusal"] = (
            f"answers that decline an untagged prompt went from {first.get('refusal_rate', 0.0):.0%} to "
            f"{line['refusal_rate']:.0%}; the safety reward may be paid for refusing"
        )
    return found | _disagreement(line, first)


def _disagreement(line: Line, first: Mapping[str, float]) -> dict[str, str]:
    """One reward model is pleased more and more, the other less and less, each by a spread of the start."""
    if "safe" not in line or "safe" not in first:
        return {}
    up = {name: (line[name] - first[name]) / max(first[f"{name}_std"], 1e-6) for name in ("helpful", "safe")}
    for gains, loses in (("helpful", "safe"), ("safe", "helpful")):
        if up[gains] > 1.0 and up[loses] < -1.0:
            sentence = (
                f"the reward models disagree: {gains} rose from {first[gains]:.3g} to {line[gains]:.3g} while "
                f"{loses} fell from {first[loses]:.3g} to {line[loses]:.3g}; read samples.jsonl"
            )
            return {"disagreement": sentence}
    return {}


def judge_end(line: Line, state: State, settings: Settings) -> None:
    """Note in `state` whether to stop early: the KL budget is spent, or held-out reward no longer grows."""
    if "val_reward" in line:
        if state.best is None or line["val_reward"] > state.best:
            state.best, state.best_step, state.misses = line["val_reward"], state.step, 0
        else:
            state.misses += 1
    told = settings.stop_patience and state.best is not None
    kept = f"best {state.best:.4g}, of iteration {state.best_step}, whose policy is kept" if told else ""
    if settings.stop_patience and state.misses >= settings.stop_patience:
        state.stopped = f"held-out reward has not grown over {state.misses} evaluations ({kept})"
    if settings.max_kl and line["kl"] > settings.max_kl:
        state.stopped = (
            f"the KL to the reference reached {line['kl']:.3g} nats an answer (--max-kl {settings.max_kl:g})"
            + (f"; held-out reward: {kept}" if kept else "")
        )


def watch(line: Line, state: State, settings: Settings) -> Line:
    """What a finished iteration adds to its line: "alarms" and why it "stopped", where there is anything to say."""
    state.remember(line)
    judge_end(line, state, settings)
    raised = alarms(line, state, settings)
    return ({"stopped": state.stopped} if state.stopped else {}) | ({"alarms": raised} if raised else {})
