"""Puts the plugin to work, once somebody has asked."""

import sys

import pytest

from sockguard._kernel.linux import require_linux
from sockguard.errors import KernelUnavailable
from sockguard.pytest_plugin.court import Court
from sockguard.pytest_plugin.extent import Extent
from sockguard.pytest_plugin.files import try_out
from sockguard.pytest_plugin.phases import Phases
from sockguard.pytest_plugin.records import Records
from sockguard.pytest_plugin.settings import SETTINGS, Settings, read_settings
from sockguard.pytest_plugin.summary import Summary
from sockguard.testing import begin_tracking, end_tracking

__all__ = ["activate"]


def activate(config: pytest.Config) -> None:
    """Registers what finds leaks, judges and tells.

    Raises:
        pytest.UsageError: A setting makes no sense, or a file cannot be written.
    """
    if SETTINGS in config.stash:
        return
    settings = config.stash[SETTINGS] = read_settings(config)
    try:
        require_linux("finding sockets that tests leave open")
    except KernelUnavailable as error:
        _warn(config, str(error))
        return  # and writes no file: nothing was looked at
    _try_files(config, settings)
    records = Records(config, settings)
    extent = Extent(config, is_part=settings.action == "off")
    config.pluginmanager.register(extent, "sockguard-extent")
    config.pluginmanager.register(Summary(config, settings, records, extent), "sockguard-summary")
    if _has_workers(config):
        return  # the tests run elsewhere
    tracking = begin_tracking()
    config.add_cleanup(end_tracking)
    phases = Phases(tracking, settings)
    config.pluginmanager.register(phases, "sockguard-phases")
    config.pluginmanager.register(Court(tracking, settings, phases, records), "sockguard-court")


def _try_files(config: pytest.Config, settings: Settings) -> None:
    if hasattr(config, "workerinput"):
        return  # the main process writes them
    for path in (settings.report, settings.baseline if settings.action == "warn" else ""):
        if path:
            try_out(path)


def _warn(config: pytest.Config, text: str) -> None:
    """Warns once in the whole run, and never ends it: not even where warnings are errors."""
    if hasattr(config, "workerinput"):
        return  # the main process says it
    try:
        config.issue_config_time_warning(pytest.PytestConfigWarning(text), stacklevel=3)
    except pytest.PytestConfigWarning:
        sys.stderr.write(f"sockguard: {text}\n")


def _has_workers(config: pytest.Config) -> bool:
    """Tells whether pytest-xdist has the tests run by others."""
    return bool(getattr(config.option, "tx", None)) and not hasattr(config, "workerinput")
