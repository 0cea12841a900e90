"""What is evaluated and how, and what all tasks need of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from l2.files.errors import BadInput
from l2.files.jsonl import Record
from l2.files.progress import OnProgress
from l2.generate.engine import Sampler, Sampling
from l2.model.transformer import LanguageModel, ScalarModel
from l2.tokens.tokenizer import Tokenizer

Item = dict[str, Any]  # what came of one record, or of one turn of it
Execute = Callable[[Sequence[str], OnProgress], Sequence[bool]]


def _nobody(ids: Sequence[int]) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class Subject:
    """A model under test, and the settings of its tasks.

    A reward model ranks preferences, and a language model does everything else; a server in its place only answers.
    chat: exact-match prompts are encoded as a dialog, not as plain text. rewards: the judges of sampled answers.
    baseline: (name, model) to be beaten on prompts. show: is called with the ids of each task's first prompt.
    execute: runs programs, in a sandbox, and says which end well. toxicity: scores a text from 0 to 1; `toxicity_by`
    names what does.
    attention: dialogs under an instruction are measured for how much of it goes to the instruction, too.
    """

    name: str
    model: Sampler | ScalarModel
    tokenizer: Tokenizer
    sampling: Sampling = field(default_factory=Sampling)
    batch_size: int = 32
    chat: bool = False
    rewards: Mapping[str, ScalarModel] = field(default_factory=dict)
    baseline: tuple[str, LanguageModel] | None = None
    show: Callable[[Sequence[int]], None] = _nobody
    execute: Execute | None = None
    toxicity: Callable[[str], float] | None = None
    toxicity_by: str = ""
    attention: bool = False

    @property
    def policy(self) -> Sampler:
        """The model, where it gives answers (`tasks.check` has seen to that)."""
        assert not isinstance(self.model, ScalarModel)
        return self.model

    @property
    def language_model(self) -> LanguageModel:
        """The model, where it gives log-likelihoods."""
        assert isinstance(self.model, LanguageModel)
        return self.model

    @property
    def reward_model(self) -> ScalarModel:
        """The model, where it is a reward model."""
        assert isinstance(self.model, ScalarModel)
        return self.model


def fit(record: Record, length: int, limit: int) -> None:
    """Raises BadInput when `length` tokens are more than the `limit` that the model has room for."""
    if length > limit:
        raise BadInput(record.where, f"{length} tokens", f"at most {limit}, which is what the model has room for")
