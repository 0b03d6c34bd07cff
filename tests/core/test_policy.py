"""The policy: its defaults, every way in and what each refuses, and which layer wins."""

import copy
import dataclasses
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockguard._core.policy import (
    Heartbeat,
    Keepalive,
    Layer,
    Policy,
    environment_layer,
    mapping_layer,
    text_layer,
    unknown_variables,
    variable_of,
)
from sockguard.errors import PolicyError, UsageError

NAMES = [field.name for field in dataclasses.fields(Policy)]

# Policies, and how each is written as text and as a table

SECONDS = st.none() | st.floats(0, 1e9, exclude_min=True) | st.integers(1, 10**9)
PROBE_SECONDS = st.integers(1, 32767)
KEEPALIVES = st.builds(Keepalive, PROBE_SECONDS, PROBE_SECONDS, st.integers(1, 127)) | st.builds(
    Keepalive, PROBE_SECONDS, PROBE_SECONDS, user_timeout=st.floats(65534, 2147483)
)
HEARTBEATS = st.builds(
    Heartbeat, *(SECONDS.filter(bool) if n else st.text("PING\n", min_size=1).map(str.encode) for n in range(3))
)
VALUES = {
    "mode": st.sampled_from(["enforce", "observe"]),
    "half_close": st.sampled_from(["drain", "close", "allow"]),
    "min_receive_rate": SECONDS,
    "receive_rate_grace": SECONDS.filter(bool),
    "max_lifetime_jitter": st.none() | st.floats(0, 1, exclude_min=True),
    "keepalive": st.none() | KEEPALIVES,
    "heartbeat": st.none() | HEARTBEATS,
    "drain_bytes": st.integers(1, 2**31 - 1),
    "on_timeout": st.sampled_from(["fin", "reset"]),
    "shed_dead_on_accept": st.sampled_from(["pressure", "always", None]),
}
FIELDS = st.fixed_dictionaries({}, optional={name: VALUES.get(name, SECONDS) for name in NAMES})


def as_table(value):
    """Writes a value as TOML gives it, which has no null and no bytes."""
    if isinstance(value, Keepalive | Heartbeat):
        return {name: as_table(each) for name, each in dataclasses.asdict(value).items()}
    return False if value is None else value.decode() if isinstance(value, bytes) else value


def as_text(value):
    """Writes a value as a variable holds it."""
    if isinstance(value, Keepalive):
        return ",".join(str(each) for each in dataclasses.astuple(value) if each is not None)
    return "off" if value is None else str(value)


# Defaults


def test_defaults_are_those_that_the_design_names():
    """A program that says nothing gets exactly this; whoever changes a default changes it here too."""
    assert dataclasses.asdict(Policy()) == {
        "mode": "enforce",
        "half_close": "drain",
        "fin_timeout": 60.0,
        "first_byte_timeout": None,
        "idle_timeout": None,
        "read_idle_timeout": None,
        "write_stall_timeout": None,
        "min_receive_rate": None,
        "receive_rate_grace": 20.0,
        "max_lifetime": None,
        "max_lifetime_jitter": 0.1,
        "keepalive": {"idle": 60, "interval": 15, "count": 4, "user_timeout": None},
        "heartbeat": None,
        "drain_timeout": 2.0,
        "drain_bytes": 65536,
        "on_timeout": "fin",
        "shed_dead_on_accept": "pressure",
        "leak_after": 10.0,
    }


def test_every_field_is_described():
    """Help and documentation find a unit, a meaning and the reason for the default at each field."""
    described = Policy.describe()
    assert [(info.name, info.default) for info in described] == [(name, getattr(Policy(), name)) for name in NAMES]
    assert all(info.unit and info.meaning.endswith(".") and info.reason.endswith(".") for info in described)


def test_empty_sources_give_the_defaults():
    """Nothing said is nothing changed, wherever it is not said."""
    ways = [Policy.from_mapping({}), Policy.from_text({}), Policy.from_environment({}), Policy.from_layers()]
    assert ways == [Policy()] * 4


# Round trips


@given(FIELDS)
def test_all_ways_in_give_the_same_policy(fields):
    """Arguments, a table, text and variables that say the same make equal policies."""
    policy = Policy(**fields)
    assert Policy.from_mapping({name: as_table(value) for name, value in fields.items()}) == policy
    texts = {name: as_text(value) for name, value in fields.items() if not isinstance(value, Heartbeat)}
    expected = dataclasses.replace(policy, heartbeat=None)
    assert Policy.from_text(texts) == expected
    assert Policy.from_environment({variable_of(name): text for name, text in texts.items()}) == expected


@given(FIELDS)
def test_a_policy_survives_copies(fields):
    """A policy is a value: copied, pickled or made anew of its own fields it is equal, with an equal hash."""
    policy = Policy(**fields)
    again = Policy(**{name: getattr(policy, name) for name in NAMES})
    for other in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy)), dataclasses.replace(policy), again):
        assert (other, hash(other)) == (policy, hash(policy))


def test_spans_are_stored_as_float():
    """Whoever computes with a span of time need not ask which number it was given as."""
    policy = Policy(fin_timeout=2, min_receive_rate=500, drain_timeout=1)
    assert [type(x) for x in (policy.fin_timeout, policy.min_receive_rate, policy.drain_timeout)] == [float] * 3


def test_a_policy_cannot_be_changed():
    """It is shared by threads, so it stays as it is, without room for misspelt attributes."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Policy().fin_timeout = 3
    assert not hasattr(Policy(), "__dict__")


# Nonsense

OFF = "; None turns it off"
SPAN = "give seconds above 0, at most 1000000000"
RATE = "give bytes per second above 0, at most 1000000000"
N_BYTES = "give bytes, a whole number from 1 to 2147483647"
KEEPALIVE = "give Keepalive(...), as text idle,interval,count such as 60,15,4, or on"
OFF_BY_DEFAULT_OR_NOT = [name for name in NAMES if name.endswith("timeout")] + ["max_lifetime", "leak_after"]


@pytest.mark.parametrize(
    ("field", "value", "remedy"),
    [
        *((name, 0, SPAN + OFF) for name in OFF_BY_DEFAULT_OR_NOT if name != "on_timeout"),
        *(("fin_timeout", value, SPAN + OFF) for value in (-1, float("nan"), float("inf"), True, "2", 10**9 + 1)),
        ("mode", "watch", "give 'enforce' or 'observe'"),
        ("mode", None, "give 'enforce' or 'observe'"),
        ("half_close", True, "give 'drain' or 'close' or 'allow'"),
        ("min_receive_rate", 0, RATE + OFF),
        ("receive_rate_grace", 0, SPAN),
        ("receive_rate_grace", None, SPAN),
        ("max_lifetime_jitter", 0, "give a fraction above 0, at most 1" + OFF),
        ("max_lifetime_jitter", 1.5, "give a fraction above 0, at most 1" + OFF),
        ("keepalive", 60, KEEPALIVE + OFF),
        ("heartbeat", b"x", "give Heartbeat(...), or a table heartbeat in a file" + OFF),
        ("drain_bytes", 0, N_BYTES),
        ("drain_bytes", None, N_BYTES),
        ("drain_bytes", 1.5, N_BYTES),
        ("drain_bytes", True, N_BYTES),
        ("on_timeout", "rst", "give 'fin' or 'reset'"),
        ("shed_dead_on_accept", "never", "give 'pressure' or 'always'" + OFF),
        ("fin_timout", 2, "there is no such field, the nearest is fin_timeout"),
        ("frobnicate", 2, "there is no such field, only " + ", ".join(NAMES)),
    ],
)
def test_nonsense_is_refused_in_one_clear_sentence(field, value, remedy):
    """The error names field, value and remedy, in its text and as attributes; it is a UsageError and a ValueError."""
    with pytest.raises(PolicyError) as caught:
        Policy(**{field: value})
    error = caught.value
    assert str(error) == f"{field}={value!r} makes no sense: {remedy}"
    assert (error.field, error.remedy, error.source) == (field, remedy, "")
    assert error.value is value
    assert isinstance(error, UsageError) and isinstance(error, ValueError)


@pytest.mark.parametrize(("value", "shown"), [("x" * 99, "'" + "x" * 79 + "..."), ([10**5000], "<list>")], ids=len)
def test_a_value_that_is_long_is_shown_in_part(value, shown):
    """The sentence stays one line, and gets out whatever the value does when it is asked for its form."""
    with pytest.raises(PolicyError) as caught:
        Policy(fin_timeout=value)
    assert str(caught.value) == f"fin_timeout={shown} makes no sense: {SPAN}{OFF}"


def test_error_can_be_pickled():
    """It crosses the border of a process whole, as from a pool's worker."""
    error = PolicyError("fin_timeout", 0, "give more", "a.toml")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), vars(again)) == (str(error), vars(error))
    assert str(again) == "fin_timeout=0 (from a.toml) makes no sense: give more"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.just(object()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["idle", "payload", "every"]), inner),
)


def refused_field(make, *args):
    """Names the field that was refused, without that of a record in it; empty if all was taken."""
    try:
        make(*args)
    except PolicyError as error:
        return error.field.partition(".")[0]
    return ""


@given(st.sampled_from(NAMES), ANYTHING)
def test_whatever_is_given_is_taken_or_refused(name, value):
    """No value raises anything but a PolicyError about its field."""
    assert refused_field(lambda: Policy(**{name: value})) in {name, ""}
    assert refused_field(Policy.from_mapping, {name: value}) in {name, ""}


@given(st.sampled_from(NAMES), st.text())
def test_whatever_is_written_is_taken_or_refused(name, text):
    """No text raises anything but a PolicyError about its field."""
    assert refused_field(Policy.from_text, {name: text}) in {name, ""}


@given(ANYTHING.filter(lambda value: not isinstance(value, dict)))
def test_what_is_no_table_is_refused(value):
    """`[tool] sockguard = 3` is said to be no table."""
    with pytest.raises(PolicyError) as caught:
        Policy.from_mapping(value, source="pyproject.toml")
    assert (caught.value.field, caught.value.source) == ("policy", "pyproject.toml")
    assert caught.value.remedy == "give a table of fields and their values"


def test_a_name_that_is_no_text_is_refused():
    """A mapping made by a program can have any keys."""
    with pytest.raises(PolicyError, match=r"^7=1 makes no sense: there is no such field, only mode"):
        Policy.from_mapping({7: 1})


# Text and tables


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("fin_timeout", "2", 2.0),
        ("fin_timeout", " 0.25 ", 0.25),
        ("fin_timeout", "none", None),
        ("fin_timeout", "OFF", None),
        ("mode", "Observe", "observe"),
        ("keepalive", "off", None),
        ("keepalive", "On", Keepalive()),
        ("keepalive", "120, 30, 2", Keepalive(120, 30, 2)),
        ("keepalive", "60,15,4,120.5", Keepalive(user_timeout=120.5)),
        ("heartbeat", "off", None),
        ("shed_dead_on_accept", "off", None),
    ],
)
def test_text_is_understood(field, text, value):
    """Options and variables are written as people write them: any case, room around."""
    assert getattr(Policy.from_text({field: text}), field) == value


@pytest.mark.parametrize(
    ("field", "text", "shown", "remedy"),
    [
        ("fin_timeout", "2 s", "fin_timeout='2 s'", SPAN + OFF),
        ("fin_timeout", "0", "fin_timeout=0", SPAN + OFF),
        ("fin_timeout", "", "fin_timeout=''", SPAN + OFF),
        ("fin_timeout", "9" * 5000, "fin_timeout=inf", SPAN + OFF),
        ("drain_bytes", "off", "drain_bytes=None", N_BYTES),
        ("keepalive", "60", "keepalive='60'", KEEPALIVE + OFF),
        ("keepalive", "0,15,4", "keepalive.idle=0", "give seconds, a whole number from 1 to 32767"),
        ("fin-timeout", "2", "fin-timeout='2'", "there is no such field, the nearest is fin_timeout"),
    ],
)
def test_text_that_makes_no_sense_names_its_source(field, text, shown, remedy):
    """The error tells where the text stood, too."""
    with pytest.raises(PolicyError) as caught:
        Policy.from_text({field: text}, source="here")
    assert str(caught.value) == f"{shown} (from here) makes no sense: {remedy}"
    assert caught.value.source == "here"


def test_a_table_may_turn_off_by_false():
    """TOML has no null: `false` and the words for it stand for None, true for the default keepalive."""
    policy = Policy.from_mapping({"keepalive": False, "fin_timeout": "off", "leak_after": "None"})
    assert (policy.keepalive, policy.fin_timeout, policy.leak_after) == (None, None, None)
    assert Policy.from_mapping({"keepalive": True}) == Policy.from_mapping({"keepalive": "on"}) == Policy()


def test_a_table_takes_no_text_for_a_number():
    """Quotes around a number in TOML are a mistake, and said to be one."""
    with pytest.raises(PolicyError, match=r"^fin_timeout='2' \(from a\.toml\) makes no sense: give seconds above 0"):
        Policy.from_mapping({"fin_timeout": "2"}, source="a.toml")


# The environment


def test_variables_that_are_no_fields_are_left_alone():
    """Variables of sockguard, those of others, unknown and empty ones change nothing and break nothing."""
    environ = {"SOCKGUARD": "1", "SOCKGUARD_CONTROL": "/run/x", "SOCKGUARD_NEW_IN_2": "y", "PATH": "/bin"}
    assert Policy.from_environment(environ | {"SOCKGUARD_FIN_TIMEOUT": " "}) == Policy()


def test_unknown_variables_are_told_with_the_one_that_was_meant():
    """What looks like a field and is none can be warned of; our own and other people's variables are not told."""
    environ = dict.fromkeys(
        ["SOCKGUARD", "SOCKGUARD_CONTROL", "SOCKGUARD_CHILDREN", "SOCKGUARD_PATH", "SOCKGUARD_RUN_DEPTH", "PATH",
         "SOCKGUARD_BACKEND",
         "SOCKGUARD_TEST_INSTALLED", "SOCKGUARD_MODE", "SOCKGUARD_FIN_TIMOUT", "SOCKGUARD_keep_alive",
         "SOCKGUARD_FROBNICATE"], "1",
    )  # fmt: skip
    assert unknown_variables(environ) == {
        "SOCKGUARD_FIN_TIMOUT": "SOCKGUARD_FIN_TIMEOUT",
        "SOCKGUARD_keep_alive": "SOCKGUARD_KEEPALIVE",
        "SOCKGUARD_FROBNICATE": "",
    }


def test_variable_that_makes_no_sense_is_named():
    """The error names the variable, which is what has to be changed."""
    with pytest.raises(PolicyError) as caught:
        Policy.from_environment({"SOCKGUARD_KEEPALIVE": "60,15,400"})
    assert str(caught.value) == (
        "keepalive.count=400 (from SOCKGUARD_KEEPALIVE) makes no sense: give probes, a whole number from 1 to 127"
    )


# Layers


def test_later_layer_wins_field_by_field():
    """A file gives way to the environment, that to options, and those to arguments; each where it says something."""
    layers = [
        mapping_layer({"fin_timeout": 1, "idle_timeout": 1, "max_lifetime": 1, "leak_after": 1}, "a.toml"),
        environment_layer({"SOCKGUARD_IDLE_TIMEOUT": "2", "SOCKGUARD_MAX_LIFETIME": "2", "SOCKGUARD_LEAK_AFTER": "2"}),
        text_layer({"max_lifetime": "3", "leak_after": "3"}, "--max-lifetime"),
        Layer("", {"leak_after": None}),
    ]
    assert Policy.from_layers(*layers) == Policy(fin_timeout=1, idle_timeout=2, max_lifetime=3, leak_after=None)


@pytest.mark.parametrize("source", ["a.toml", ""])
def test_layer_that_makes_no_sense_is_named(source):
    """Arguments in the code are a layer as well, of which no origin is told."""
    with pytest.raises(PolicyError) as caught:
        Policy.from_layers(Layer(source, {"fin_timeout": 0}), Layer("later", {"fin_timeout": 2}))
    assert (caught.value.field, caught.value.source) == ("fin_timeout", source)


@given(FIELDS, FIELDS)
def test_layers_are_read_as_one_table_over_the_other(first, second):
    """Two layers make the policy of their fields together, the second's where both have one."""
    assert Policy.from_layers(Layer("a", first), Layer("b", second)) == Policy(**(first | second))
