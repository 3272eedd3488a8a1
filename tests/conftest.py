from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much chaos; read here, as an option of a folder's own would not be known to a run of the whole suite."""
    parser.addoption("--chaos-seeds", type=int, default=20, help="seeds of the kills of a simulated sweep")
    parser.addoption("--chaos-pocket", action="store_true", help="kill real heals too: 6 minutes")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest: where two processes share the files, neither then waits long for the other at the end."""
    items.sort(key=lambda item: item.get_closest_marker("end_to_end") is None)
