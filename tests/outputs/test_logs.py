"""Events in the program's log: plain or with structlog, and never where the program does not want them."""

import io
import json
import logging
import logging.handlers
import queue
import sys

import pytest
import structlog

from interpreters import run_program
from sockguard._core.events import EVENTS, Event, EventName, make_event
from sockguard.outputs.logs import LEVELS, LOGGER, LogOutput

STALL = {"seconds": 5.0, "thread": "MainThread", "where": ("app.py:12 in f",), "pid": 7}
SENTENCE = (
    "The event loop of thread MainThread has not come round for 5.0 s. It stands in app.py:12 in f. Until it does, its "
    "connections are neither served nor closed: do such work in a thread (asyncio.to_thread). "
    "See more: sockguard report --pid 7"
)


def stall(**fields: object) -> Event:
    return make_event(EventName.LOOP_STALLED, **{**STALL, **fields})


class Keeping(logging.Handler):
    """Keeps the records that it is given."""

    def __init__(self, level: int = 0) -> None:
        super().__init__(level)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class Root(logging.RootLogger):
    """A root logger on which pytest hangs nothing."""

    def addHandler(self, hdlr: logging.Handler) -> None:  # noqa: N802 - logging's name
        if not type(hdlr).__module__.startswith("_pytest"):
            super().addHandler(hdlr)


@pytest.fixture(autouse=True)
def _logging_of_its_own(monkeypatch):
    """Each test has a tree of loggers to itself."""
    root = Root(logging.WARNING)
    monkeypatch.setattr(logging, "root", root)
    monkeypatch.setattr(logging.Logger, "root", root)
    monkeypatch.setattr(logging.Logger, "manager", logging.Manager(root))
    factory = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(factory)
    structlog.reset_defaults()


@pytest.fixture
def output():
    """The output, closed in the end."""
    output = LogOutput()
    yield output
    output.close()


@pytest.fixture
def handler() -> Keeping:
    """A handler on the root logger, as most programs have one."""
    handler = Keeping()
    logging.root.addHandler(handler)
    return handler


def told(output: LogOutput, event: Event) -> bool:
    """Does what the teller does; whether the output wanted it."""
    is_wanted = output.wants(event)
    if is_wanted:
        output.emit(event)
    return is_wanted


def test_levels_are_those_of_logging():
    """The numbers that stand in for `logging` are its own."""
    assert {name: getattr(logging, name.upper()) for name in LEVELS} == LEVELS
    assert {kind.level for kind in EVENTS} | {kind.level_after for kind in EVENTS} - {None} <= LEVELS.keys()


def test_record_has_the_sentence_and_the_fields(output, handler):
    """The message is the sentence for people; every field that is known is an attribute of the record."""
    assert told(output, stall())
    (record,) = handler.records
    assert (record.name, record.levelname, record.msg, record.getMessage()) == (LOGGER, "WARNING", SENTENCE, SENTENCE)
    assert (record.event_name, record.seconds, record.where, record.pid) == (  # type: ignore[attr-defined]
        "loop_stalled", 5.0, ("app.py:12 in f",), 7,
    )  # fmt: skip
    assert not hasattr(told(output, stall(pid=None)) and handler.records[1], "pid")


def test_fields_take_no_attribute_of_the_record(output, handler):
    """A field of the name of an attribute that a record has is given another; `%(thread)d` goes on working."""
    told(output, stall())
    (record,) = handler.records
    assert record.sockguard_thread == "MainThread"  # type: ignore[attr-defined]
    assert logging.Formatter("%(thread)d %(name)s").format(record) == f"{record.thread} sockguard"


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.name)
def test_no_event_hurts_a_record(kind, output, handler):
    """For every kind of event, all that `logging` itself puts in a record is there, and of its own type."""
    lists = {"where", "created_at", "holders"}
    fields = {name: ("x",) if name in lists else 1 for name in kind.fields}
    logging.root.setLevel(logging.DEBUG)
    told(output, make_event(kind.name, **fields))
    logging.getLogger(LOGGER).warning("by logging itself")
    ours, plain = ({key: type(value) for key, value in vars(record).items()} for record in handler.records)
    assert {**plain, "exc_text": ours["exc_text"]}.items() <= ours.items()


def test_attributes_of_the_programs_own_records_are_kept(output, handler):
    """A record factory of the program's may use our names; `extra=` would raise for that, and we do not."""
    make = logging.getLogRecordFactory()

    def factory(*args: object, **kwargs: object) -> logging.LogRecord:
        record = make(*args, **kwargs)  # type: ignore[arg-type]
        record.pid = "theirs"
        return record

    logging.setLogRecordFactory(factory)
    told(output, stall())
    assert (handler.records[0].pid, handler.records[0].sockguard_pid) == ("theirs", 7)  # type: ignore[attr-defined]


def test_percent_signs_are_no_formats(output, handler):
    """A message that holds a percent sign, as a task's name may, is not formatted."""
    told(output, stall(thread="100 %s %d"))
    assert "100 %s %d" in handler.records[0].getMessage()


# When nobody would see it


def test_without_a_handler_nothing_is_wanted(output):
    """With no handler on our logger or above, the event is not even rendered."""
    assert not output.wants(stall())
    logging.root.addHandler(logging.NullHandler())
    assert not output.wants(stall())


@pytest.mark.parametrize(
    ("prepare", "is_wanted"),
    [
        (lambda: None, True),
        (lambda: logging.root.setLevel(logging.ERROR), False),
        (lambda: logging.getLogger(LOGGER).setLevel(logging.ERROR), False),
        (lambda: logging.getLogger(LOGGER).setLevel(logging.INFO), True),
        (lambda: logging.root.handlers[0].setLevel(logging.ERROR), False),
        (lambda: logging.disable(logging.WARNING), False),
        (lambda: logging.disable(logging.INFO), True),
        (lambda: setattr(logging.getLogger(LOGGER), "propagate", False), False),
        (lambda: setattr(logging.getLogger(LOGGER), "disabled", True), False),
        (lambda: logging.getLogger(f"{LOGGER}.child").setLevel(logging.CRITICAL), True),
    ],
)
def test_it_is_wanted_exactly_if_a_handler_would_get_it(prepare, is_wanted, output, handler):
    """Levels, handlers, propagation and switches count as they do for `logging` itself."""
    prepare()
    assert told(output, stall()) == is_wanted
    assert len(handler.records) == is_wanted
    logging.getLogger(LOGGER).warning("by logging's own rules")
    assert len(handler.records) == 2 * is_wanted


def test_handler_of_our_logger_alone_is_enough(output):
    """A program may give the logger `sockguard` a handler of its own, apart from all others, and a level."""
    logger, handler = logging.getLogger(LOGGER), Keeping()
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    assert told(output, make_event(EventName.PEER_CLOSED))
    assert [record.levelname for record in handler.records] == ["DEBUG"]


def test_level_that_nobody_has_set_lets_everything_through(output, handler):
    """A root logger without a level filters nothing, as in `logging`."""
    logging.root.setLevel(logging.NOTSET)
    assert told(output, make_event(EventName.PEER_CLOSED))
    assert len(handler.records) == 1


def test_last_resort_stays_silent(output, handler, capfd):
    """Should the handlers vanish between question and answer, `logging.lastResort` prints nothing."""
    event = stall()
    assert output.wants(event)
    logging.root.handlers.clear()
    output.emit(event)
    assert handler.records == []
    assert capfd.readouterr() == ("", "")


def test_closing_leaves_no_handler_behind(output, handler):
    """What was added to keep the logger silent is taken away again; closing twice, or without need, is no error."""
    output.close()
    told(output, stall())
    told(output, stall())
    assert len(logging.getLogger(LOGGER).handlers) == 1
    output.close()
    output.close()
    assert logging.getLogger(LOGGER).handlers == []
    assert handler.records


def test_logging_that_is_not_imported_is_left_alone(output, monkeypatch):
    """In a program that has not imported `logging`, or is just about to, nothing is wanted."""
    monkeypatch.delitem(sys.modules, "logging")
    assert not output.wants(stall())
    monkeypatch.setitem(sys.modules, "logging", type(sys)("logging"))
    assert not output.wants(stall())


PLAIN = """
import sys
from sockguard._core.events import EventName, make_event
from sockguard.outputs.logs import LogOutput
output, event = LogOutput(), make_event(EventName.LOOP_STALLED, seconds=1.0, thread="T")
assert not output.wants(event)
assert not {"logging", "structlog"} & sys.modules.keys(), "imported by us"
import logging
assert not output.wants(event)
logging.basicConfig(format="%(levelname)s %(name)s %(message).26s", stream=sys.stdout)
assert output.wants(event)
output.emit(event)
assert "structlog" not in sys.modules, "structlog was imported by us"
"""


def test_nothing_is_imported_that_the_program_does_not_use():
    """Neither `logging` nor structlog is imported on our account; with plain logging, the line is plain."""
    assert run_program(sys.executable, PLAIN) == ["WARNING sockguard The event loop of thread T"]


# structlog


def formatter(**arguments: object) -> structlog.stdlib.ProcessorFormatter:
    keys = structlog.processors.JSONRenderer()
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    return structlog.stdlib.ProcessorFormatter(processors=[remove, keys], **arguments)  # type: ignore[arg-type]


@pytest.fixture
def stream() -> io.StringIO:
    """Where a handler writes that formats by structlog."""
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(formatter())
    logging.root.addHandler(handler)
    return handler.stream


def configure(*processors: object) -> None:
    """Configures structlog as its manual says for programs that log by the standard library."""
    structlog.configure(
        processors=[*processors, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],  # type: ignore[list-item]
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def test_structlog_gets_the_fields_as_keys(output, stream):
    """In a program that uses structlog, the event passes its own processors, and its fields are keys."""
    configure(
        structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, lambda _, __, keys: {**keys, "app": "x"}
    )
    told(output, stall())
    structlog.get_logger("other").warning("theirs", key=1)
    ours, theirs = map(json.loads, stream.getvalue().splitlines())
    assert ours == {
        **STALL, "where": ["app.py:12 in f"], "event": SENTENCE, "event_name": "loop_stalled",
        "level": "warning", "logger": "sockguard", "app": "x",
    }  # fmt: skip
    assert theirs == {"event": "theirs", "key": 1, "level": "warning", "logger": "other", "app": "x"}


@pytest.mark.parametrize("configured", [None, [structlog.processors.JSONRenderer()], []])
def test_structlog_for_the_records_of_others_only(configured, output, stream):
    """A program may use only the formatter of structlog: then level, logger and time come along too."""
    if configured is not None:
        structlog.configure(processors=configured)
    told(output, stall())
    keys = json.loads(stream.getvalue())
    assert keys.pop("timestamp").endswith("Z")
    assert keys == {
        **STALL, "where": ["app.py:12 in f"], "event": SENTENCE, "event_name": "loop_stalled",
        "level": "warning", "logger": "sockguard",
    }  # fmt: skip


def test_processor_that_drops_the_event_is_heeded(output, stream):
    """A processor of the program may drop an event, which is no error."""

    def drop(*_: object) -> dict[str, object]:
        raise structlog.DropEvent

    configure(drop)
    told(output, stall())
    assert stream.getvalue() == ""


def test_processor_that_raises_is_the_tellers_affair(output, stream):
    """What a processor of the program raises comes out, so that the output is told of and taken out."""
    configure(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        output.emit(stall())
    assert stream.getvalue() == ""


def test_plain_handler_beside_structlog_gets_the_sentence(output, stream, handler):
    """Where one handler formats by structlog and another does not, the other one still has sentence and fields."""
    configure()
    told(output, stall())
    (record,) = handler.records
    assert logging.Formatter("%(levelname)s %(event_name)s %(message)s").format(record) == (
        f"WARNING loop_stalled {SENTENCE}"
    )
    assert json.loads(stream.getvalue())["event"] == SENTENCE


def test_structlog_that_prints_is_not_used(output, handler, capfd):
    """With structlog as it comes, which prints, and plain handlers, the record is plain and nothing is printed."""
    structlog.reset_defaults()
    told(output, stall())
    assert handler.records[0].msg == SENTENCE
    assert capfd.readouterr() == ("", "")


def test_queue_handler_takes_the_sentence(output):
    """Through a queue with structlog's formatter behind it, the sentence arrives, and the fields by ExtraAdder."""
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    logging.root.addHandler(logging.handlers.QueueHandler(records))
    told(output, stall())
    adding = formatter(foreign_pre_chain=[structlog.stdlib.ExtraAdder(allow=["event_name", "seconds"])])
    assert json.loads(adding.format(records.get_nowait())) == {
        "event": SENTENCE, "event_name": "loop_stalled", "seconds": 5.0,
    }  # fmt: skip
