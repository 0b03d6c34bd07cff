"""Captures what this kernel says of known sockets, as data for the parser tests.

Run it as root, in this folder, in an empty network namespace (so that no socket of the
machine gets into the data):

    unshare --net sh -c 'ip link set lo up && python3 capture.py'

It writes, with the kernel's version in each name:

    inet_diag-VERSION-NAME.bin   a whole dump, each datagram behind its length (32-bit little-endian)
    net_tcp-VERSION.txt, net_tcp6-VERSION.txt    /proc/self/net/tcp and tcp6 at the same moment
    tcp_info-VERSION-NAME.bin    getsockopt(IPPROTO_TCP, TCP_INFO, 512)
    stat-VERSION.txt, limits-VERSION.txt, cmdline-VERSION.bin    /proc/PID files of a nasty process

It uses nothing of sockguard, so that a bug there cannot get into the data.
"""

import os
import platform
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

VERSION = ".".join(platform.release().split(".")[:2])
INFO, SKMEMINFO = 1 << 1, 1 << 6
ALL = 0xFFF & ~1
SICK = 1 << 8 | 1 << 10


def request_old(extensions: int, states: int) -> bytes:
    """`struct inet_diag_req` behind a header of type TCPDIAG_GETSOCK."""
    return struct.pack("=IHHII BBBB 48x II", 76, 18, 0x301, 0, 0, socket.AF_INET, 0, 0, extensions, states, 0)


def request_new(family: int, extensions: int, states: int) -> bytes:
    """`struct inet_diag_req_v2` behind a header of type SOCK_DIAG_BY_FAMILY."""
    return struct.pack("=IHHII BBBx I 48x", 72, 20, 0x301, 0, 0, family, socket.IPPROTO_TCP, extensions, states)


def dump(request: bytes) -> Iterator[bytes]:
    """Asks, and gives each datagram of the answer up to the one that ends in NLMSG_DONE or NLMSG_ERROR."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as diag:
        diag.send(request)
        kind = 0
        while kind not in (2, 3):
            datagram = diag.recv(1 << 16)
            yield datagram
            offset = 0
            while offset < len(datagram):
                length, kind = struct.unpack_from("=IH", datagram, offset)
                offset += (length + 3) & ~3


def write(name: str, data: bytes) -> None:
    Path(name).write_bytes(data)
    print(f"{name}: {len(data)} bytes")


def listen(family: int, host: str, port: int, backlog: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    sock.listen(backlog)
    return sock


def connect(host: str, port: int, source: int) -> socket.socket:
    return socket.create_connection((host, port), source_address=(host, source))


def make_sockets() -> dict[str, socket.socket]:  # noqa: PLR0915 - a plain list of what there is
    """127.0.0.1:8000 IPv4, [::1]:8001 IPv6, *:8002 dual, 127.0.0.1:8003 a full queue."""
    kept = {}
    kept["listener"] = listen(socket.AF_INET, "127.0.0.1", 8000, 8)
    kept["client"] = connect("127.0.0.1", 8000, 50001)
    kept["server"], _ = kept["listener"].accept()
    kept["client"].sendall(b"hello")  # unread: Recv-Q 5 at the server
    gone = connect("127.0.0.1", 8000, 50002)
    kept["close_wait"], _ = kept["listener"].accept()
    gone.sendall(b"four")
    gone.close()  # CLOSE_WAIT with four bytes and the FIN unread: Recv-Q 5
    kept["waiting"] = connect("127.0.0.1", 8000, 50003)  # never accepted
    connect("127.0.0.1", 8000, 50004).close()  # never accepted, and gone: CLOSE_WAIT with inode 0

    kept["listener6"] = listen(socket.AF_INET6, "::1", 8001, 16)
    kept["client6"] = connect("::1", 8001, 50005)
    kept["server6"], _ = kept["listener6"].accept()
    closing = connect("::1", 8001, 50006)
    late, _ = kept["listener6"].accept()
    closing.shutdown(socket.SHUT_RDWR)
    late.close()
    closing.close()  # TIME_WAIT

    kept["listener_dual"] = listen(socket.AF_INET6, "::", 8002, 32)
    mapped = connect("127.0.0.1", 8002, 50007)
    kept["close_wait_mapped"], _ = kept["listener_dual"].accept()
    mapped.close()  # CLOSE_WAIT at ::ffff:127.0.0.1

    kept["listener_full"] = listen(socket.AF_INET, "127.0.0.1", 8003, 0)
    kept["in_full_queue"] = connect("127.0.0.1", 8003, 50008)
    kept["syn_sent"] = socket.socket()
    kept["syn_sent"].setblocking(False)
    kept["syn_sent"].bind(("127.0.0.1", 50009))
    kept["syn_sent"].connect_ex(("127.0.0.1", 8003))  # the queue is full, so the SYN is dropped
    time.sleep(0.3)
    return kept


def capture_tables() -> None:
    asked = {
        "old-plain": [request_old(0, ALL)],
        "old-full": [request_old(INFO | SKMEMINFO, ALL)],
        "old-sick-info": [request_old(INFO, SICK)],
        "old-sick-memory": [request_old(SKMEMINFO, SICK)],
        "new-plain": [request_new(family, 0, ALL) for family in (socket.AF_INET, socket.AF_INET6)],
        "new-full": [request_new(family, INFO | SKMEMINFO, ALL) for family in (socket.AF_INET, socket.AF_INET6)],
        "refused": [struct.pack("=I", 72) + request_old(0, ALL)[4:72]],  # four bytes short: EINVAL
    }
    for name, requests in asked.items():
        data = b""
        for request in requests:
            data += b"".join(struct.pack("<I", len(datagram)) + datagram for datagram in dump(request))
        write(f"inet_diag-{VERSION}-{name}.bin", data)
    for table in ("tcp", "tcp6"):
        write(f"net_{table}-{VERSION}.txt", Path(f"/proc/self/net/{table}").read_bytes())


def capture_process() -> None:
    """A process whose name holds ") (", a blank and a newline, and whose arguments hold an escape sequence."""
    code = "import sys; open('/proc/self/comm', 'w').write('a) (b\\nc d'); print(flush=True); sys.stdin.read()"
    arguments = [sys.executable, "-c", code, "\x1b[31mred", "", "caf\xe9", "two words"]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin and process.stdout
    process.stdout.readline()
    for name, suffix in (("stat", "txt"), ("limits", "txt"), ("cmdline", "bin")):
        write(f"{name}-{VERSION}.{suffix}", Path(f"/proc/{process.pid}/{name}").read_bytes())
    process.stdin.close()
    process.wait()


if __name__ == "__main__":
    os.chdir(Path(__file__).parent)
    sockets = make_sockets()
    capture_tables()
    for name in ("listener", "server", "client", "close_wait", "close_wait_mapped", "syn_sent"):
        write(f"tcp_info-{VERSION}-{name}.bin", sockets[name].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 512))
    capture_process()
