"""The report as a whole: what stands in it, in which order."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from l2.files.errors import BadInput
from l2.files.manifest import version
from l2.report import measures, training
from l2.report.curves import reward_models
from l2.report.form import Block, Report, Section, Table, Text, compact
from l2.report.gather import Found, Run
from l2.report.lineage import ancestors, lineage, ordered, parents

STAGES = {
    "pretrain": "learns to predict the next token",
    "sft": "learns the answers of dialogs",
    "rm-train": "learns which of two answers is preferred",
    "ppo": "tunes its answers against the reward models",
}


def tell(found: Found, paths: Sequence[str | Path]) -> Report:
    """What there is to tell of what was `found` in `paths`."""
    order = ordered(found.runs)
    judged = measures.judged(found)
    reward = [*found.rewards, *measures.judged_answers(judged, order), *measures.over_versions(found)]
    try:
        reward += reward_models(found.results, found.model_of)
    except BadInput as error:
        found.note(error)
    sections = [
        Section("Story", _story(found, order, measures.Gains(found, judged))),
        Section("Claims", measures.claims(found)),
        Section("Training", [*training.curves(order), *training.held_out(order), *training.events(order)]),
        Section("Rewards and versions", reward),
        Section("Instructions over many turns", measures.over_turns(found)),
        Section("Figures", found.figures),
        Section("Results", [*measures.benchmarks(found), *measures.results(found)]),
        Section("History", measures.over_time(found)),
        Section("Machine and energy", [*training.machine(order), *training.footprint(order)]),
        Section("Answers", measures.answers(found, order)),
        Section("Lineage", [lineage(order)] if order else []),
    ]
    title = ", ".join(dict.fromkeys(Path(path).resolve().name for path in paths))
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return Report(title, f"{_size(found)} l2 {version()}, {made}.", [s for s in sections if s.blocks], found.problems)


def _size(found: Found) -> str:
    """What the report is about, as a sentence."""
    counts = {
        "run": len(found.runs),
        "result": len(found.results) + len(found.history),
        "claim": len(found.claims),
        "figure": len(found.figures),
        "file of samples": len(found.samples),
    }
    told = [f"{n} {name if n == 1 else _plural(name)}" for name, n in counts.items() if n]
    waiting = [run.name for run in found.runs if not run.finished]
    size = ", ".join(told) or "Nothing that can be told"
    return f"{size}." + (f" Not finished: {', '.join(waiting)}." if waiting else "")


def _plural(name: str) -> str:
    return name.replace("file ", "files ") if name.startswith("file ") else f"{name}s"


def _story(found: Found, order: Sequence[Run], gains: measures.Gains) -> list[Block]:
    """What was filtered, and each stage: of what, what it did, what it gained."""
    blocks: list[Block] = [Text(_filtered(path, fields)) for path, fields in found.filtered]
    rows = []
    for run in order:
        made_of = [f"{parent.name}" for _, parent in parents(run, order)]
        purpose = STAGES.get(run.stage, "")
        above = ancestors(run, order)
        earlier = [other for other in reversed(order[: order.index(run)]) if other not in above]
        gained = gains.of(run, [*above, *earlier])
        rows.append(
            [
                run.name,
                f"{run.stage}: {purpose}" if purpose else run.stage,
                ", ".join(dict.fromkeys(made_of)) or _data(run),
                training.did(run),
                training.learned(run) or "–",
                "\n".join(gained) or "–",
            ]
        )
    if rows:
        header = ["stage", "what it does", "made of", "work", "learned", "gained on held-out data"]
        note = (
            "Gains are over the nearest ancestor that was measured alike, or else the last earlier run that was; "
            "± one standard error, of pairs where both answered the same prompts."
        )
        blocks.append(Table("The stages, in order of lineage", header, rows, note))
    return blocks


def _data(run: Run) -> str:
    """The data of a run that was made of no other, in a few words."""
    paths = [path for option, pairs in run.inputs.items() if option in ("shards", "data") for path, _ in pairs]
    return f"{Path(paths[0]).name}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}" if paths else "–"


def _filtered(path: Path, fields: dict[str, object]) -> str:
    """A filter's report in a sentence."""
    rules = fields["rules"] if isinstance(fields["rules"], dict) else {}
    most = sorted(((n, rule) for rule, n in rules.items() if isinstance(n, int)), reverse=True)[:4]
    counts = [fields[name] for name in ("in", "kept")]
    said = " of ".join(compact(n) for n in reversed(counts) if isinstance(n, (int, float)))
    because = ", ".join(f"{rule.replace('_', ' ')} ({n:,})" for n, rule in most)
    return f"Filter ({path.name}): {said} documents kept" + (f"; most were rejected for {because}." if because else ".")
