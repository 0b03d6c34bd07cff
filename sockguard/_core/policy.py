"""What do we want? The policy: one frozen record, which refuses nonsense and says what to give instead.

It comes from keyword arguments, a TOML table, `SOCKGUARD_*` variables or the command
line. Several of these make layers, of which a later one wins field by field; a value
that makes no sense is refused in any of them, by name, even where a later one would win.

Beside each default stands its reason, with precedents. The table of
docs/reference/policy.md and the help of the command line are made from what stands here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

from sockguard._core.leaks import LEAK_AFTER
from sockguard._core.policy_fields import Checked, Kind, Layer, about, choice, nearest, number, read_layer, whole
from sockguard._core.policy_probes import HEARTBEAT, KEEPALIVE, Heartbeat, Keepalive

__all__ = [
    "HalfClose",
    "Heartbeat",
    "Keepalive",
    "Layer",
    "Mode",
    "OnTimeout",
    "Policy",
    "ShedDead",
    "environment_layer",
    "mapping_layer",
    "text_layer",
    "unknown_variables",
    "variable_of",
]

Mode = Literal["enforce", "observe"]
HalfClose = Literal["drain", "close", "allow"]
OnTimeout = Literal["fin", "reset"]
ShedDead = Literal["pressure", "always"]

SECONDS = number("seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy(Checked):
    """Says what is wanted of connections. All is seconds unless said otherwise, and None turns it off."""

    mode: Mode = field(default="enforce", metadata=about(
        choice(get_args(Mode)),
        "Whether connections are ended, or it is only reported what would have been done.",
        "Whoever installs a guard wants one; `observe` is for the first day."
    ))  # fmt: skip
    half_close: HalfClose = field(default="drain", metadata=about(
        choice(get_args(HalfClose)),
        "What becomes of a connection whose peer sent a FIN. `drain`: it lives while it makes progress, and is ended "
        "`fin_timeout` after that stops. `close`: ended as soon as the EOF and all before it is read. `allow`: only "
        "reported.",
        "A FIN may mean that the peer is gone, or that it is our turn (RFC 9293, 3.6): whether bytes still move tells. "
        "Netty closes, anyio allows."
    ))  # fmt: skip
    fin_timeout: float | None = field(default=60.0, metadata=about(
        SECONDS, "How long a half-closed connection may stand still. None, with `drain`: for ever, as with `allow`.",
        "The other end's kernel forgets an orphan in FIN_WAIT2 after 60 s too (net.ipv4.tcp_fin_timeout)."
    ))  # fmt: skip
    first_byte_timeout: float | None = field(default=None, metadata=about(
        SECONDS, "How long a peer may be silent after it was accepted.",
        "In some protocols the server speaks first. nginx has 60 s, but knows that it speaks HTTP."
    ))  # fmt: skip
    idle_timeout: float | None = field(default=None, metadata=about(
        SECONDS, "How long no byte may move in either direction. Probes and retransmissions move none.",
        "Long silence is normal for a push service. Netty and HAProxy have none either, Envoy 1 h."
    ))  # fmt: skip
    read_idle_timeout: float | None = field(default=None, metadata=about(
        SECONDS, "How long nothing may be received.", "As `idle_timeout`; Netty's readerIdleTime is off too."
    ))  # fmt: skip
    write_stall_timeout: float | None = field(default=None, metadata=about(
        SECONDS, "How long the peer may acknowledge nothing while data is queued for it.",
        "A slow reader is not dead. Erlang's send_timeout is infinite, nginx has 60 s."
    ))  # fmt: skip
    min_receive_rate: float | None = field(default=None, metadata=about(
        number("bytes per second"),
        "How fast a request has to arrive at least: the average over bytes that come without an answer.",
        "Only a request has a speed, a chat has none. Apache's mod_reqtimeout has 500, for HTTP."
    ))  # fmt: skip
    receive_rate_grace: float = field(default=20.0, metadata=about(
        number("seconds", can_be_off=False),
        "How long after its first byte a request may be slower than `min_receive_rate`.",
        "As mod_reqtimeout (header=20, body=20)."
    ))  # fmt: skip
    max_lifetime: float | None = field(default=None, metadata=about(
        SECONDS, "When a connection is ended, whatever it does.",
        "Healthy connections may live for ever, as with gRPC (MAX_CONNECTION_AGE) and Envoy."
    ))  # fmt: skip
    max_lifetime_jitter: float | None = field(default=0.1, metadata=about(
        number("fraction", article="a ", most=1),
        "By up to this fraction of it, drawn for each connection, `max_lifetime` is longer. Never shorter.",
        "All clients of a restarted server come at once and should not leave at once. A tenth as gRPC, later as Envoy."
    ))  # fmt: skip
    keepalive: Keepalive | None = field(default=Keepalive(), metadata=about(
        KEEPALIVE, "Probes by the kernel, where the application has not set its own. Not in `observe`.",
        "No timeout sees a peer that vanished without a FIN, and Linux asks only if told to. Go turns it on as well."
    ))  # fmt: skip
    heartbeat: Heartbeat | None = field(default=None, metadata=about(
        HEARTBEAT, "Probes by the application's own protocol.", "TCP has no ping: only you know what to send."
    ))  # fmt: skip
    drain_timeout: float | None = field(default=2.0, metadata=about(
        SECONDS, "How long unread bytes are read and dropped before close, lest it becomes a reset.",
        "As gunicorn's close_graceful: a peer that wants the answer reads it by then."
    ))  # fmt: skip
    drain_bytes: int = field(default=65536, metadata=about(
        whole("bytes", 1, 2**31 - 1), "How many bytes are dropped at most in that.",
        "As gunicorn's close_graceful; more is an upload, and not worth its traffic."
    ))  # fmt: skip
    on_timeout: OnTimeout = field(default="fin", metadata=about(
        choice(get_args(OnTimeout)), "How a connection is ended that ran into a timeout.",
        "`reset` loses what the peer has not read yet, and a lost reset leaves it hanging. nginx does not either."
    ))  # fmt: skip
    shed_dead_on_accept: ShedDead | None = field(default="pressure", metadata=about(
        choice(get_args(ShedDead), can_be_off=True),
        "When a connection that its peer has closed, with nothing to read, is ended at accept(). `pressure`: near the "
        "limit of descriptors, or with a full accept queue.",
        "A client that half-closes at once and waits looks the same, so never without need."
    ))  # fmt: skip
    leak_after: float | None = field(default=LEAK_AFTER, metadata=about(
        SECONDS, "When a connection in CLOSE_WAIT without progress is reported as a leak.",
        "Longer than handlers and pools take that clean up; the same as `sockguard report --min-age`."
    ))  # fmt: skip

    @classmethod
    def from_mapping(cls, table: Mapping[str, object], *, source: str = "") -> Self:
        """Makes a policy from a TOML table; `false`, "none" or "off" stand for None, which TOML lacks.

        Args:
            table: Names of fields and their values; keepalive and heartbeat may be tables of their own.
            source: What errors name as the origin, such as the path of a file.

        Raises:
            PolicyError: A field or a value makes no sense.
        """
        return cls.from_layers(mapping_layer(table, source))

    @classmethod
    def from_text(cls, texts: Mapping[str, str], *, source: str = "") -> Self:
        """Makes a policy from text, as options and variables hold it; "none" or "off" stand for None.

        Raises:
            PolicyError: A field or a value makes no sense.
        """
        return cls.from_layers(text_layer(texts, source))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """Makes a policy from variables such as `SOCKGUARD_FIN_TIMEOUT=2`; see `environment_layer`.

        Raises:
            PolicyError: A value makes no sense.
        """
        return cls.from_layers(environment_layer(environ))

    @classmethod
    def from_layers(cls, *layers: Layer) -> Self:
        """Makes a policy of several layers: a field has the value of the last one that has it.

        Raises:
            PolicyError: A field or a value makes no sense; it names the source of its layer.
        """
        kinds, values = cls.kinds(), dict[str, Any]()
        for layer in layers:
            values |= read_layer(kinds, layer).values
        return cls(**values)


def mapping_layer(table: Mapping[str, object], source: str = "") -> Layer:
    """Makes a layer of a TOML table; see `Policy.from_mapping`.

    Raises:
        PolicyError: A field or a value makes no sense.
    """
    return read_layer(Policy.kinds(), Layer(source, table), Kind.read_table)


def text_layer(texts: Mapping[str, str], source: str = "") -> Layer:
    """Makes a layer of text; see `Policy.from_text`.

    Raises:
        PolicyError: A field or a value makes no sense.
    """
    return read_layer(Policy.kinds(), Layer(source, texts), Kind.read_text)


def environment_layer(environ: Mapping[str, str]) -> Layer:
    """Makes a layer of the variables that are named after fields; one that is empty counts as not set.

    Other variables are no error here, as the next version may know them: see `unknown_variables`.

    Raises:
        PolicyError: A value makes no sense; it names the variable.
    """
    values: dict[str, object] = {}
    for name in Policy.kinds():
        if text := environ.get(variable_of(name), "").strip():
            values |= text_layer({name: text}, variable_of(name)).values
    return Layer("the environment", values)


def variable_of(name: str) -> str:
    """Names the environment variable of a field."""
    return _PREFIX + name.upper()


_PREFIX = "SOCKGUARD_"
_NO_FIELDS = tuple(_PREFIX + name for name in ("BACKEND", "CONTROL", "CHILDREN", "PATH", "RUN_", "TEST_"))
"""How the variables begin that are sockguard's own, and say nothing of the policy."""


def unknown_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Finds variables that look like fields and are none, for a warning; each with the one it is near to, or ""."""
    kinds = Policy.kinds()
    known = {variable_of(name) for name in kinds}
    unknown = [name for name in environ if name.startswith(_PREFIX) and name not in known]
    near = {name: nearest(name.removeprefix(_PREFIX), kinds) for name in unknown if not name.startswith(_NO_FIELDS)}
    return {name: variable_of(one) if one else "" for name, one in near.items()}
