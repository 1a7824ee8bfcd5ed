"""The pages of numbers: what everything costs, and how often other tools are right, read off benchmarks/results."""

from __future__ import annotations


def pages() -> dict[str, str]:
    return {"performance.md": "# Performance\n", "comparison.md": "# Comparison\n"}
