from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest: where two processes share the files, neither then waits long for the other at the end."""
    items.sort(key=lambda item: item.get_closest_marker("end_to_end") is None)
