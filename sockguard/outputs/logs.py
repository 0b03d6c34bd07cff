"""Events into the program's log: the standard logger `sockguard`, and structlog's keys where the program uses it.

The logging of a program is its own affair. Nothing here prints, adds a handler that writes, sets
a level or configures anything. If the program has not imported `logging`, or no handler of
it would take the event, the event is not even rendered.

structlog comes in where one of the handlers that will see the record formats by its
`ProcessorFormatter`. Then the event goes through the program's own processors, and arrives as
a structlog event with its fields as keys. Everywhere else it is a plain record: the message
is the sentence, and the fields are attributes, as with `extra=`. So structlog is imported
where the program has done so already, and nowhere else.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sockguard._core.events import Event, Level

if TYPE_CHECKING:
    import logging

__all__ = ["LOGGER", "LogOutput"]

LOGGER = "sockguard"

LEVELS: Mapping[Level, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
"""The numbers of `logging`, which is not imported for them."""

PREFIX = "sockguard_"
"""Goes before a field whose name a record has already, such as `thread`."""


class LogOutput:
    """Writes events to the logger `sockguard`."""

    def __init__(self) -> None:
        self._silencer: logging.Handler | None = None

    def wants(self, event: Event) -> bool:
        """Tells whether a handler of the program would take the event.

        It reads what `Logger.isEnabledFor` and `Logger.hasHandlers` read, without the lock
        that the former may take: this is called on the guard's thread.
        """
        number = LEVELS[event.level]
        logger = _find_logger()
        if logger is None or logger.disabled or logger.manager.disable >= number or _level_of(logger) > number:
            return False
        return any(handler.level <= number for handler in _handlers_of(logger))

    def emit(self, event: Event) -> None:
        """Logs the event; only what is wanted may come here."""
        import logging  # noqa: PLC0415 - it is there already, or `wants` would have said no

        logger = logging.getLogger(LOGGER)
        if self._silencer is None:  # or logging.lastResort prints, should the handlers go away right now
            self._silencer = logging.NullHandler()
            logger.addHandler(self._silencer)
        fields = {"event_name": event.name.value, **event.fields}
        fields = {name: value for name, value in fields.items() if value is not None}
        if _has_structlog(logger):
            rendered = _through_structlog(logger, event, fields)
            if rendered is not None:
                _write(logger, event, rendered, {**fields, "_logger": logger, "_name": event.level})
        else:
            _write(logger, event, event.message, fields)

    def close(self) -> None:
        """Takes away what `emit` added."""
        silencer, self._silencer = self._silencer, None
        if silencer is not None:
            sys.modules["logging"].getLogger(LOGGER).removeHandler(silencer)


class _Readable(dict[str, Any]):
    """The keys of an event, for structlog; as text it is the sentence, for any other formatter."""

    def __init__(self, keys: Mapping[str, Any], sentence: str) -> None:
        super().__init__(keys)
        self._sentence = sentence

    def __str__(self) -> str:
        return self._sentence


def _find_logger() -> "logging.Logger | None":
    """Finds our logger, or the one that it would hang under, if the program has imported `logging` to its end."""
    kind = getattr(sys.modules.get("logging"), "Logger", None)
    manager = getattr(kind, "manager", None)
    if kind is None or manager is None:
        return None
    found = manager.loggerDict.get(LOGGER)
    return found if isinstance(found, kind) else manager.root  # type: ignore[no-any-return]


def _level_of(logger: "logging.Logger | None") -> int:
    while logger is not None:
        if logger.level:
            return logger.level
        logger = logger.parent
    return 0


def _handlers_of(logger: "logging.Logger | None") -> "Iterator[logging.Handler]":
    """Yields the handlers that a record of this logger comes to and that do something with it."""
    nothing = sys.modules["logging"].NullHandler
    while logger is not None:
        yield from (handler for handler in tuple(logger.handlers) if not isinstance(handler, nothing))
        logger = logger.parent if logger.propagate else None


def _has_structlog(logger: "logging.Logger") -> bool:
    stdlib = sys.modules.get("structlog.stdlib")
    return stdlib is not None and any(
        isinstance(handler.formatter, stdlib.ProcessorFormatter) for handler in _handlers_of(logger)
    )


def _through_structlog(logger: "logging.Logger", event: Event, fields: Mapping[str, object]) -> _Readable | None:
    """Sends an event through the program's processors; None if one of them drops it.

    A program that has none which end in the formatter (it formats the records of others
    only) gets the keys that its own would most likely have added.
    """
    import structlog  # noqa: PLC0415 - it is there already

    wrap = structlog.stdlib.ProcessorFormatter.wrap_for_formatter
    processors = list(structlog.get_config()["processors"])
    if not processors or processors.pop() is not wrap:
        timestamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
        processors = [structlog.stdlib.add_logger_name, structlog.stdlib.add_log_level, timestamp]
    keys: Any = {**fields, "event": event.message}
    try:
        for processor in processors:
            keys = processor(logger, event.level, keys)
    except structlog.DropEvent:
        return None
    return _Readable(keys, event.message)


def _write(logger: "logging.Logger", event: Event, message: object, attributes: Mapping[str, object]) -> None:
    record = logger.makeRecord(LOGGER, LEVELS[event.level], __file__, 0, message, (), None, "emit")
    taken = frozenset(vars(record))
    for name, value in attributes.items():
        # Not by extra=, which raises for a name that a record, or the program's own kind of it, has already.
        setattr(record, PREFIX + name if name in taken else name, value)
    logger.handle(record)
