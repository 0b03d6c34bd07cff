"""Settings of the whole suite; what a room's tests need besides lies in that room's own conftest.py."""

import gc
import os
import sys
import warnings

import pytest
from hypothesis import settings

import sockguard
from own_network import move_into_own_network

# A property fails by its answer, never by the speed of the machine; a failure prints how to repeat it.
settings.register_profile("sockguard", deadline=None, print_blob=True)
settings.load_profile("sockguard")

# The settings of whoever runs the tests must not change their outcome. Tests set what they need. What is
# kept says which sockguard is tested: an installed one; one without the kernel's books (test_portable_wrappers.py).
KEPT = ("SOCKGUARD_TEST_", "SOCKGUARD_BACKEND")
for name in [name for name in os.environ if name.startswith("SOCKGUARD_") and not name.startswith(KEPT)]:
    del os.environ[name]
IS_PORTABLE = os.environ.get("SOCKGUARD_BACKEND") == "portable"


NETWORK = move_into_own_network() if os.environ.get("SOCKGUARD_TEST_OWN_NETWORK") else ""
"""Which network the tests run in; .ci/run asks for one of its own for each process."""


def pytest_report_header():
    """Tells what is not as usual: a network of its own; no kernel's books, and whether sockguard does without, too."""
    header = [f"network: {NETWORK}"] if NETWORK else []
    if IS_PORTABLE:
        from sockguard._kernel.backend import KERNEL_KEEPS_BOOKS  # noqa: PLC0415 - not before a test wants it

        header.append(f"sockguard: KERNEL_KEEPS_BOOKS={KERNEL_KEEPS_BOOKS}")
    return header


PATIENCE = 60.0
PATIENT = (
    "sockguard._engine.blame.verdicts.MAX_SEARCH",
    "sockguard._engine.courier.MAX_PAUSE",
    "sockguard._engine.driver.MAX_WAIT",
    "sockguard._engine.dump.MAX_WAIT",
    "sockguard._engine.insight.MAX_SEARCH",
    "sockguard._engine.referrers.MAX_SECONDS",
    "sockguard._kernel.pidfd.MAX_WAIT",
)
"""Seconds that the guard waits for threads, and searches, at most. A thread may get the processor seconds late,
and the whole suite has many objects."""


@pytest.fixture(autouse=True, scope="session")
def _patience():
    """Has the guard wait for as long as it takes. Tests of such a limit set it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in PATIENT:
            patch.setattr(name, PATIENCE)
        yield


@pytest.fixture
def no_garbage():
    """Closes what the tests before have left to the collector, so that descriptors can be counted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # those are not this test's
        gc.collect()


@pytest.fixture(autouse=True)
def _no_guard_is_left():
    """Ends the guard that the wrappers of a test have made: it is the whole process's, and the next test's too."""
    yield
    if (process := sys.modules.get("sockguard._process")) is not None:
        sockguard.uninstall()
        process.end()


def pytest_collection_modifyitems(items):
    """Refuses tests that do not say which behaviour they hold."""
    mute = {
        item.nodeid.partition("[")[0] for item in items if not (getattr(item, "function", item).__doc__ or "").strip()
    }
    if mute:
        raise pytest.UsageError(
            "a test states its behaviour in a docstring; these have none: " + ", ".join(sorted(mute))
        )
    if IS_PORTABLE:
        skip = pytest.mark.skip(reason="needs the kernel's books")
        for item in items:
            if item.get_closest_marker("needs_books"):
                item.add_marker(skip)
