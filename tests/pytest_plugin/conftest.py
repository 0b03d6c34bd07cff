"""What these tests need besides: time, as each runs pytest as often as a few times, beside whatever else is running."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    """Lets them take longer than the tests of one function."""
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(900))
