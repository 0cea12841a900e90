"""What every result record says of its making (design.md §2), so that only what was measured alike is compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from l2.files.manifest import now, sha256_records, version


def task_version(rules: int, records: Iterable[Mapping[str, Any]]) -> str:
    """Version of the rules, and the first digits of the records' hash: another rule or question is another version."""
    return f"{rules}-{sha256_records(records)[:12]}"


def made() -> dict[str, str]:
    """When, and by which version of l2."""
    return {"time": now(), "l2_version": version()}
