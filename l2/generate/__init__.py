"""Sampling over the KV cache."""
