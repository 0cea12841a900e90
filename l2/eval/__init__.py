"""Tasks, scoring, comparisons."""
