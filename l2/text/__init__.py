"""Documents: language, quality, duplicates (paper §2.1 and LLaMA-1 §2.1)."""
