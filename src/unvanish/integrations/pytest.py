"""The pytest plugin: the fixture ``assert_healthy``.

Every run of pytest in an environment with unvanish imports this module, so it costs next to nothing: torch comes in
when a problem is checked. PYTEST_DONT_REWRITE: there is no assert statement here to explain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

import unvanish

if TYPE_CHECKING:
    from unvanish import Report


@pytest.fixture(scope="session")
def assert_healthy() -> Callable[..., Report]:
    """unvanish.assert_healthy(problem, ignore=()): fails the test with the text report if the network is not healthy.

    def test_flow(assert_healthy):
        assert_healthy(make_problem())
    """
    check: Any = unvanish.assert_healthy
    return check
