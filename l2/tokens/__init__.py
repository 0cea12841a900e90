"""From text to token ids: SentencePiece, the chat format, .bin shards, packing."""
