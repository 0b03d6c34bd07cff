"""The records: what they derive from the kernel's numbers."""

import pytest
from hypothesis import given

from sockguard._core.facts import Address, Snapshot, SocketFacts, TcpState, Unseen
from strategies import IPV4_HOSTS, IPV6_HOSTS, addresses, socket_facts


def facts_with(**fields: object) -> SocketFacts:
    local = Address("127.0.0.1", 80)
    return SocketFacts(8, local, local, 1, 1, 0, 0, 0, 0, 0, 0, None)._replace(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (Address("127.0.0.1", 80), "127.0.0.1:80"),
        (Address("::1", 80), "[::1]:80"),
        (Address("::ffff:127.0.0.1", 0), "[::ffff:127.0.0.1]:0"),
        (Address("0.0.0.0", 65535), "0.0.0.0:65535"),
    ],
)
def test_address_is_printed_as_in_a_url(address: Address, text: str) -> None:
    """An IPv6 host is put into brackets, so that its colons cannot be taken for the port's."""
    assert str(address) == text


@given(addresses())
def test_printed_address_can_be_read_back(address: Address) -> None:
    """Host and port can be told apart again in every printed address."""
    host, _, port = str(address).rpartition(":")
    assert Address(host.removeprefix("[").removesuffix("]"), int(port)) == address


@pytest.mark.parametrize(
    ("host", "is_wildcard"),
    [("0.0.0.0", True), ("::", True), ("127.0.0.1", False), ("::1", False), ("0.0.0.1", False), ("::0.0.0.1", False)],
)
def test_wildcard_is_the_unspecified_address_only(host: str, is_wildcard: bool) -> None:
    """Only the unspecified address of either family listens everywhere."""
    assert Address(host, 80).is_wildcard is is_wildcard


@given(IPV4_HOSTS)
def test_mapped_address_is_unmapped_to_ipv4(host: str) -> None:
    """An IPv4-mapped address becomes the IPv4 address that it stands for, with the same port."""
    assert Address(f"::ffff:{host}", 80).unmapped == Address(host, 80)


@given(IPV4_HOSTS | IPV6_HOSTS.filter(lambda host: not host.startswith("::ffff:")))
def test_other_addresses_are_left_as_they_are(host: str) -> None:
    """Plain IPv4 and IPv6 addresses are their own unmapped form."""
    assert Address(host, 80).unmapped == Address(host, 80)


@given(addresses())
def test_unmapping_twice_changes_nothing_more(address: Address) -> None:
    """Unmapping is idempotent."""
    assert address.unmapped.unmapped == address.unmapped


def test_hexadecimal_address_that_begins_like_a_mapped_one_is_kept() -> None:
    """::ffff:0:0:1 is no IPv4-mapped address, though it begins in the same way."""
    address = Address("::ffff:0:0:1", 80)
    assert address.unmapped is address


def test_state_is_named() -> None:
    """A known state is named as in ss, in capitals."""
    assert [facts_with(state=state).state_name for state in (1, 6, 8, 10)] == [
        "ESTABLISHED",
        "TIME_WAIT",
        "CLOSE_WAIT",
        "LISTEN",
    ]


@pytest.mark.parametrize("state", [0, 14, 255])
def test_unknown_state_keeps_its_number(state: int) -> None:
    """A state that only a newer kernel knows is shown as a number."""
    assert facts_with(state=state).state_name == str(state)


def test_states_have_the_kernels_numbers() -> None:
    """The numbers are those of include/net/tcp_states.h, without a gap."""
    assert [state.name for state in sorted(TcpState)] == (
        "ESTABLISHED SYN_SENT SYN_RECV FIN_WAIT1 FIN_WAIT2 TIME_WAIT CLOSE CLOSE_WAIT LAST_ACK LISTEN CLOSING "
        "NEW_SYN_RECV BOUND_INACTIVE"
    ).split()
    assert [state.value for state in sorted(TcpState)] == list(range(1, 14))


@pytest.mark.parametrize(("timer", "armed"), [(0, False), (1, False), (2, True), (3, False), (4, True)])
def test_only_probe_timers_tell_of_probes(timer: int, armed: bool) -> None:
    """Timer 2 is keepalive and 4 the zero-window probe; retransmission and TIME_WAIT are none."""
    assert facts_with(timer=timer).is_probed is armed


@pytest.mark.parametrize(("queue", "unread"), [(0, 0), (1, 0), (2, 1), (4097, 4096)])
def test_unread_does_not_count_the_fin(queue: int, unread: int) -> None:
    """Of what is queued in CLOSE_WAIT, one is the FIN; nothing queued is nothing unread."""
    assert facts_with(recv_queue=queue).unread == unread


@pytest.mark.slow
def test_nothing_is_taken_for_worse_or_better_than_it_was_said() -> None:
    """What was not seen is no failure of the whole look, and owners are complete, unless the kernel room says so."""
    snapshot = Snapshot(0.0, (), {}, {}, {})
    assert (Unseen(None, "ages", "").fatal, snapshot.unseen, snapshot.owners_complete) == (False, (), True)


@given(socket_facts(), socket_facts())
def test_identity_survives_everything_that_changes(one: SocketFacts, other: SocketFacts) -> None:
    """State, queues, timer, cookie and ages may change or be missing: it stays the same connection."""
    later = other._replace(netns=one.netns, local=one.local, remote=one.remote, inode=one.inode)
    assert later.identity == one.identity


@pytest.mark.parametrize(
    "changed",
    [
        {"netns": 7},
        {"local": Address("127.0.0.2", 80)},
        {"remote": Address("127.0.0.1", 81)},
        {"remote": None},
        {"inode": 2},
    ],
)
def test_identity_tells_connections_apart(changed: dict[str, object]) -> None:
    """Another namespace, another end or another inode is another connection."""
    assert facts_with(**changed).identity != facts_with().identity
