"""The transformer of the paper, its configuration, its heads and its checkpoints."""
