"""Small networks with a known illness or none, seeded and named: what the rules, the tests and the benchmarks stand on.

Listing and describing them does not import torch; building one does.
"""

from __future__ import annotations

from unvanish.zoo.catalogue import describe, get, names
from unvanish.zoo.network import Network

__all__ = ["Network", "describe", "get", "names"]
