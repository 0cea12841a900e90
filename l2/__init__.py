"""l2: raw text to a chat model tuned with human feedback, by the recipe of the Llama 2 paper.

From Python: `model = l2.load_model(DIR)`, then `model(tokens_BT)` gives fp32 logits [batch, seq, vocab];
`l2.load_tokenizer(DIR)` gives the tokenizer beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from l2.model.checkpoint import load_model
    from l2.tokens.tokenizer import load_tokenizer

__all__ = ["load_model", "load_tokenizer"]


def __getattr__(name: str) -> Any:
    # Imported when first asked for: `import l2` must not cost the import of torch.
    if name == "load_model":
        from l2.model.checkpoint import load_model

        return load_model
    if name == "load_tokenizer":
        from l2.tokens.tokenizer import load_tokenizer

        return load_tokenizer
    raise AttributeError(f"module 'l2' has no attribute {name!r}")
