"""A model card: the fields of the paper's Table 52, filled from manifests, logs and results alone.

What those do not tell is said to be untold, never guessed: whoever publishes a model adds it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from l2.files.atomic import write_atomic
from l2.files.errors import L2Error, UsageError
from l2.files.jsonl import Record
from l2.report.form import compact, duration, estimate
from l2.report.gather import Found, Run
from l2.report.lineage import MODELS, ancestors, ordered, parents
from l2.report.measures import DETAIL, differing, stderr_of, with_settings
from l2.report.svg import clean
from l2.train.meter import GRAMS_PER_KWH, PUE, carbon

CARD = "README.md"
MARK = re.compile(r"<!-- Made by l2 report --card. SHA-256 of what follows: ([0-9a-f]{64}) -->\n")
UNTOLD = "Not told by the manifests; add it before you publish."
CHAT = ("sft", "ppo")


def write_card(checkpoint: str, found: Found, *, overwrite: bool = False) -> Path:
    """Write the card of `checkpoint`, one of the runs that were found; returns its path.

    Raises UsageError where the checkpoint is none of them or is not finished, and where a README.md stands there that
    this did not write, or that somebody has changed since, unless `overwrite`.
    """
    at = Path(checkpoint).resolve()
    run = next((run for run in found.runs if run.place == at), None)
    if run is None:
        raise UsageError(f"--card {checkpoint}: no run below the directories that are reported")
    if not run.finished:
        raise UsageError(f"--card {checkpoint}: the run is not finished")
    path = run.dir / CARD
    if path.exists() and not overwrite and not own(path.read_bytes().decode("utf-8", "replace")):
        raise UsageError(f"{path}: not written by l2 report, or changed since; --overwrite replaces it")
    write_atomic(path, card(run, found).encode())
    return path


def own(text: str) -> bool:
    """Whether a card is as `card` wrote it."""
    mark = MARK.search(text)
    return mark is not None and mark[1] == _digest(text[mark.end() :])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def card(run: Run, found: Found) -> str:
    """Front matter for the hub, then the card as Markdown."""
    body = _body(run, found)
    mark = f"<!-- Made by l2 report --card. SHA-256 of what follows: {_digest(body)} -->"
    return f"{_front_matter(run, found)}\n{mark}\n{body}"


def _rows(run: Run, found: Found) -> list[Record]:
    """The results of a run, without those of groups."""
    return [row for row in found.results if found.model_of(row) == run.name and DETAIL not in row["metric"]]


def _front_matter(run: Run, found: Found) -> str:
    """YAML. Strings are JSON strings, which YAML takes as they are, whatever they hold."""
    from orjson import dumps

    def quoted(text: Any) -> str:
        return dumps(clean(text)).decode()

    reward = run.stage == "rm-train"
    lines = ["---", "library_name: transformers"]
    lines.append(f"pipeline_tag: {'text-classification' if reward else 'text-generation'}")
    lines += ["tags:", "- llama", "- llama-2", "- l2", f"- {'reward-model' if reward else run.stage}"]
    if languages := _languages(found):
        lines += ["language:", *(f"- {quoted(language)}" for language in languages)]
    if rows := _rows(run, found):
        lines += ["model-index:", f"- name: {quoted(run.place.name)}", "  results:"]
        for row in rows:
            kind, task = ("text-classification" if reward else "text-generation"), quoted(row["task"])
            lines += ["  - task:", f"      type: {kind}"]
            lines += ["    dataset:", f"      name: {task}", f"      type: {task}"]
            lines += ["    metrics:", f"    - type: {quoted(row['metric'])}", f"      value: {float(row['value'])!r}"]
    return "\n".join([*lines, "---"])


def _languages(found: Found) -> list[str]:
    """Those that a filter was told to keep."""
    kept: dict[str, None] = {}
    for _, fields in found.filtered:
        settings = fields.get("settings")
        languages = settings.get("languages") if isinstance(settings, dict) else None
        kept |= dict.fromkeys(str(one) for one in languages or [])
    return list(kept)


def _body(run: Run, found: Found) -> str:
    chain = [*reversed(ancestors(run, found.runs)), run]
    made_of = _made_of(run, found)
    fields = [
        ("Model details", None),
        ("Model developers", UNTOLD),
        ("Variations", _variations(run, found)),
        ("Input", "Text."),
        ("Output", "A score." if run.stage == "rm-train" else "Text."),
        ("Model architecture", _architecture(run, chain)),
        ("Model dates", f"Trained from {chain[0].started} to {run.manifest.get('finished', '?')}."),
        ("Status", "A static model, trained offline on the data below."),
        ("License", UNTOLD),
        ("Where to send comments", UNTOLD),
        ("Intended use", None),
        ("Intended use cases", _intended(run)),
        ("Out-of-scope uses", "Languages and subjects that are not in the data below. " + UNTOLD),
        ("Hardware and software", None),
        ("Training factors", _factors(run, made_of)),
        ("Carbon footprint", _footprint(made_of)),
        ("Training data", None),
        ("Overview", _data(made_of)),
        ("Data freshness", UNTOLD),
        ("Evaluation results", None),
        ("Results", _results(run, found)),
        ("Ethical considerations and limitations", None),
        ("Limitations", _limitations(run)),
    ]
    lines = [f"# {_escaped(run.place.name)}", ""]
    for name, value in fields:
        lines += [f"## {name}", ""] if value is None else [f"**{name}.** {value}", ""]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """A name from a file as Markdown and HTML take it for a text."""
    plain = "".join(sign if sign.isprintable() else "\ufffd" for sign in text)
    return re.sub(r"([\\`*_{}\[\]<>|#&])", r"\\\1", plain)


def _variations(run: Run, found: Found) -> str:
    """Models of the same stages that were found with it."""
    names = [_escaped(other.name) for other in found.runs if other.stage in (*CHAT, "pretrain") and other is not run]
    size = f"{compact(_shape(run).parameters)} parameters."
    return size + (f" Made beside it: {', '.join(names)}." if names else "")


def _shape(run: Run) -> Any:
    from l2.model.checkpoint import load_config

    try:
        return load_config(run.dir)[0]
    except OSError as error:
        raise L2Error(f"{run.dir}: no config.json can be read ({error.strerror})") from None


def _architecture(run: Run, chain: Sequence[Run]) -> str:
    shape = _shape(run)
    told = (
        f"A Llama 2 transformer: width {shape.dim:,}, {shape.n_layers} layers, {shape.n_heads} heads with "
        f"{shape.n_kv_heads} key/value heads, feed-forward width {shape.ffn_dim:,}, context {shape.max_seq_len:,}, "
        f"vocabulary {shape.vocab_size:,}."
    )
    stages = " → ".join(f"{_escaped(one.name)} ({one.stage})" for one in chain)
    return f"{told} {'Its stages' if len(chain) > 1 else 'Its stage'}: {stages}."


def _intended(run: Run) -> str:
    purpose = {
        "pretrain": "A base model: it continues text and can be adapted to tasks.",
        "rm-train": "A reward model: it scores the answers of a dialog.",
    }
    return purpose.get(run.stage, "An assistant-like chat model: prompts in the [INST] format of its chat template.")


def _made_of(run: Run, found: Found) -> list[Run]:
    """Every run that `run` needed, judges too, and itself, in order."""
    needed = {run.name}
    for one in reversed(ordered(found.runs)):
        if one.name in needed:
            needed |= {parent.name for _, parent in parents(one, found.runs)}
    return [one for one in ordered(found.runs) if one.name in needed]


def _factors(run: Run, made_of: Sequence[Run]) -> str:
    lines = [f"l2 {run.manifest.get('l2_version', '?')}. Every run that this model needed:", ""]
    lines += ["| run | stage | device | dtype | steps | tokens | time |", "|---|---|---|---|---|---|---|"]
    for one in made_of:
        settings = one.manifest.get("settings")
        dtype = settings.get("dtype", "") if isinstance(settings, dict) else ""
        device = f"{one.manifest.get('ranks', 1)} × {one.manifest.get('device', '?')}"
        cells = [one.name, one.stage, device, str(dtype), f"{one.steps:,}", compact(one.number("tokens") or 0)]
        lines.append(f"| {' | '.join(_escaped(cell) for cell in [*cells, duration(one.number('seconds') or 0.0)])} |")
    return "\n".join(lines)


def _footprint(runs: Sequence[Run]) -> str:
    hours = sum((one.number("seconds") or 0.0) * (one.number("ranks") or 1) for one in runs) / 3600
    joules = [one.number("joules") for one in runs]
    spent = sum(value for value in joules if value is not None)
    kinds = sorted({str(one.manifest["energy"]) for one in runs if "energy" in one.manifest})
    missing = [_escaped(one.name) for one, value in zip(runs, joules, strict=True) if value is None]
    told = (
        f"{hours:.4g} device hours, {spent / 3.6e6:.4g} kWh, {carbon(spent):.4g} gCO₂eq: energy × {PUE} (PUE) × "
        f"{GRAMS_PER_KWH:g} g/kWh, the formula of the paper's Table 2"
    )
    return (
        told
        + (f"; energy by {', '.join(kinds)}" if kinds else "")
        + (f"; without {', '.join(missing)}, whose energy was not measured." if missing else ".")
    )


def _data(runs: Sequence[Run]) -> str:
    lines = ["", "", "| stage | data | SHA-256 or checksum |", "|---|---|---|"]
    for one in runs:
        for option, pairs in one.inputs.items():
            if option not in (*MODELS, "tokenizer"):
                what = f"{_escaped(one.name)}, {option.replace('_', ' ')}"
                lines += [
                    f"| {what} | {_escaped(path)} | `{_escaped(digest)}` |" for path, digest in dict(pairs).items()
                ]
    return "\n".join(lines)


def _results(run: Run, found: Found) -> str:
    rows = _rows(run, found)
    if not rows:
        return "None of this model were found."
    lines = ["", "", "| task | metric | value | n | protocol |", "|---|---|---|---|---|"]
    apart = differing(rows, lambda row: (row["task"], row["metric"]))
    for row in rows:
        cells = [
            row["task"],
            row["metric"] + with_settings(row, apart),
            estimate(row["value"], stderr_of(row)),
            row.get("n", ""),
            row.get("protocol", ""),
        ]
        lines.append(f"| {' | '.join(_escaped(str(cell)) for cell in cells)} |")
    return "\n".join([*lines, "", "± one standard error."])


def _limitations(run: Run) -> str:
    what = "Its scores" if run.stage == "rm-train" else "Its text"
    return (
        f"{what} can be wrong, biased or harmful, as its data were. What was measured is above; nothing else was. "
        "Whoever deploys it should test it for the use they have in mind (paper §5.2, §5.3)."
    )
