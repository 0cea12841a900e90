"""Every byte that enters or leaves goes through here: JSONL streams, atomic outputs, manifests, locks, errors."""
