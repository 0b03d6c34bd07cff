"""Settings of the whole suite; what a room's tests need besides lies in that room's own conftest.py."""

import os

import pytest
from hypothesis import settings

# A property fails by its answer, never by the speed of the machine; a failure prints how to repeat it.
settings.register_profile("sockguard", deadline=None, print_blob=True)
settings.load_profile("sockguard")

# The settings of whoever runs the tests must not change their outcome. Tests set what they need.
for name in [name for name in os.environ if name.startswith("SOCKGUARD_") and not name.startswith("SOCKGUARD_TEST_")]:
    del os.environ[name]


def pytest_collection_modifyitems(items):
    """Refuses tests that do not say which behaviour they hold."""
    mute = {
        item.nodeid.partition("[")[0] for item in items if not (getattr(item, "function", item).__doc__ or "").strip()
    }
    if mute:
        raise pytest.UsageError(
            "a test states its behaviour in a docstring; these have none: " + ", ".join(sorted(mute))
        )
