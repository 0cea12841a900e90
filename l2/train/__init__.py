"""Optimizer, schedule, data order and the one training loop."""
