"""A conversation with a model, turn by turn, in no more than its context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from l2.generate.engine import Sampling, generate, prompt_key
from l2.model.transformer import LanguageModel
from l2.tokens.chat import check_messages, encode_prompt
from l2.tokens.tokenizer import Tokenizer


class Conversation:
    """What was said so far. Answers are kept as the ids that were drawn, so nothing goes through text and back."""

    def __init__(
        self, model: LanguageModel, tokenizer: Tokenizer, sampling: Sampling, system: str | None = None
    ) -> None:
        self.model, self.tokenizer, self.system = model, tokenizer, system
        context = model.config.max_seq_len
        # At least half of the context stays for what was said (ours).
        self.sampling = replace(sampling, max_new_tokens=max(1, min(sampling.max_new_tokens, context // 2)))
        self.room = context - self.sampling.max_new_tokens
        self.turns: list[tuple[str, list[int]]] = []  # what the user said, and the answer with its EOS
        self.asked = 0

    def _ids(self, turns: Sequence[tuple[str, list[int]]]) -> list[int]:
        """Turns as ids; the system message goes with the first that there is."""
        ids: list[int] = []
        for number, (said, answer) in enumerate(turns):
            system = [{"role": "system", "content": self.system}] if self.system and number == 0 else []
            ids += encode_prompt(self.tokenizer, [*system, {"role": "user", "content": said}]) + answer
        return ids

    def reset(self) -> None:
        """Forget what was said; the system message stays."""
        self.turns = []

    def messages(self) -> list[dict[str, str]]:
        """What was said and is not forgotten, as a dialog."""
        said = [{"role": "system", "content": self.system}] if self.system else []
        for user, answer in self.turns:
            said += [{"role": "user", "content": user}]
            said += [{"role": "assistant", "content": self.tokenizer.decode(answer).strip()}]
        return said

    def say(self, user: str, on_text: Callable[[str], None] = lambda text: None) -> tuple[int, str]:
        """Answer the user. Returns how many of the oldest turns had to be forgotten, and the answer.

        on_text hears each piece of the answer as it is written; a KeyboardInterrupt meanwhile ends the answer there.
        The same words in the same order with the same seed get the same answers. Raises BadInput for a text that
        forges a tag of the chat format, and UsageError for one that leaves no room for an answer; the conversation
        is then as it was.
        """
        system = [{"role": "system", "content": self.system}] if self.system else []
        check_messages([*system, {"role": "user", "content": user}], "this turn")
        turns = [*self.turns, (user, [])]
        while len(ids := self._ids(turns)) > self.room and len(turns) > 1:
            del turns[0]
        eos_id, answer, shown = self.tokenizer.eos_id, list[int](), ""

        def hear(prompt: int, sample: int, token: int) -> None:
            nonlocal shown
            answer.append(token)
            # spaces are shown with what follows them, a character of several bytes when its last byte is there
            text = self.tokenizer.decode(answer).strip()
            if text.startswith(shown) and not text.endswith("\N{REPLACEMENT CHARACTER}"):
                on_text(text[len(shown) :])
                shown = text

        with suppress(KeyboardInterrupt):
            generate(self.model, [ids], [prompt_key(self.asked)], self.sampling, eos_id=eos_id, on_token=hear)
        if answer[-1:] != [eos_id]:
            answer.append(eos_id)
        forgotten = len(self.turns) + 1 - len(turns)
        self.turns = [*turns[:-1], (user, answer)]
        self.asked += 1
        return forgotten, self.tokenizer.decode(answer).strip()
