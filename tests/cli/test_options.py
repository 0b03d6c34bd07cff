"""Options that several commands share: choosing processes, and the names of TCP states."""

import click
import pytest

from commands import run
from sockguard._core.facts import TcpState
from sockguard.cli.options import chosen_pids, json_option, parse_states, process_options


def parse(*names: str) -> frozenset[int]:
    return parse_states(click.Context(click.Command("x")), click.Option(["--state"]), names)


@pytest.mark.parametrize(
    "name", ["CLOSE_WAIT", "close_wait", "close-wait", "CLOSE-WAIT", "CloseWait", "closewait", "Close-Wait"]
)
def test_state_in_any_spelling(name):
    """A state may be written as in ss, netstat or the kernel, in capitals or not."""
    assert parse(name) == {TcpState.CLOSE_WAIT}


@pytest.mark.parametrize("state", TcpState)
def test_every_state_has_its_name(state):
    """Each state of the kernel is known by its own name, and by it in small letters."""
    assert parse(state.name) == parse(state.name.lower()) == {state.value}


@pytest.mark.parametrize(
    ("alias", "state"),
    [
        ("ESTAB", TcpState.ESTABLISHED),
        ("LISTENING", TcpState.LISTEN),
        ("SYN_RCVD", TcpState.SYN_RECV),
        ("SYN-RCVD", TcpState.SYN_RECV),
        ("TIMEWAIT", TcpState.TIME_WAIT),
    ],
)
def test_names_of_other_programs(alias, state):
    """Where ss or netstat have a word of their own for a state, it is understood."""
    assert parse(alias) == {state}


def test_several_states_and_none():
    """States add up; no state named means no choice."""
    assert parse("LISTEN", "CLOSE", "listen") == {TcpState.LISTEN, TcpState.CLOSE}
    assert parse() == frozenset()


def test_unknown_state_lists_those_there_are():
    """A misspelt state is refused with the value and all that would do."""
    with pytest.raises(click.BadParameter) as refused:
        parse("CLOSEWAIT", "HALF_OPEN")
    message = str(refused.value)
    assert "'HALF_OPEN'" in message
    assert all(state.name in message for state in TcpState)


def test_chosen_pids():
    """Each process is taken once, in ascending order; none named means all."""
    assert chosen_pids((3, 1, 3), everything=False) == [1, 3]
    assert chosen_pids((), everything=False) is None
    assert chosen_pids((), everything=True) is None


def test_one_process_and_all_exclude_each_other():
    """Both --pid and --all are a contradiction, and the message says what to do."""
    with pytest.raises(click.UsageError, match="leave one of them away"):
        chosen_pids((1,), everything=True)


def test_options_reach_the_command():
    """The shared options give a command `pids`, `everything` and `as_json`."""
    seen = {}

    @click.command()
    @process_options
    @json_option
    def command(**values: object) -> None:
        seen.update(values)

    command.main(["--pid", "2", "-p", "1", "--json"], standalone_mode=False)
    assert seen == {"pids": (2, 1), "everything": False, "as_json": True}
    command.main(["--all"], standalone_mode=False)
    assert seen == {"pids": (), "everything": True, "as_json": False}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["report", "states"])
def test_commands_refuse_the_contradiction(command):
    """On the command line the contradiction is one line and exit status 2."""
    outcome = run(command, "--pid", 1, "--all")
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert "--pid and --all exclude each other" in outcome.err
