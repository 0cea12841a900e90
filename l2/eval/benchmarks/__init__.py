"""The paper's benchmarks: their published files as questions, and the protocols by which they are asked and judged."""
