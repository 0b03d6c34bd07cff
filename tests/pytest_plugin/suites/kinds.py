"""Each kind of leak in a test of its own, named for the cause it is told with; between them, innocent ones."""

import asyncio
import gc
import http.client
import os
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

KEPT = []
POOL = ThreadPoolExecutor(1)


def test_innocent():
    gc.collect()


def test_leak_refcount(server):
    socket.create_connection(server)


def test_leak_cycle(server):
    cycle = [socket.create_connection(server)]
    cycle.append(cycle)


def test_innocent_after_cycle():
    gc.collect()


def test_leak_module_global(server):
    KEPT.append(socket.create_connection(server))


def test_leak_stored_writer(server):
    async def main():
        KEPT.append((await asyncio.open_connection(*server))[1])

    asyncio.run(main())


def test_leak_forgotten_stream(server):
    async def main():
        await asyncio.open_connection(*server)

    asyncio.run(main())


def test_innocent_stream(server):
    async def main():
        _, writer = await asyncio.open_connection(*server)
        writer.close()

    asyncio.run(main())


def test_leak_parked_task(server):
    async def park():
        _, _writer = await asyncio.open_connection(*server)
        await asyncio.Event().wait()

    async def main():
        KEPT.append(asyncio.create_task(park()))
        await asyncio.sleep(0.05)

    loop = asyncio.new_event_loop()
    KEPT.append(loop)
    loop.run_until_complete(main())


def test_leak_subprocess(server, children):
    sock = socket.create_connection(server)
    process = subprocess.Popen(["sleep", "100"], pass_fds=[sock.fileno()])
    KEPT.append(process)
    children.append(process.pid)
    sock.close()


def test_innocent_subprocess():
    subprocess.run(["true"], check=True)


def test_leak_executor_thread(server):
    KEPT.append(POOL.submit(socket.create_connection, server).result())


def test_leak_executor_thread_again(server):
    KEPT.append(POOL.submit(socket.create_connection, server).result())


def test_leak_forked_child(server, children):
    sock = socket.create_connection(server)
    pid = os.fork()
    if not pid:
        time.sleep(100)
        os._exit(0)
    children.append(pid)
    sock.close()


def test_leak_accept_queue(deaf_server):
    socket.create_connection(deaf_server).close()


def test_leak_server(clinging_server):
    address, accepted = clinging_server
    socket.create_connection(address).close()
    while not accepted:
        time.sleep(0.01)  # its thread may get the processor late, and then the cause were another


def test_leak_client_pool(server):
    connection = http.client.HTTPConnection(*server)
    connection.request("GET", "/")
    connection.getresponse().read()
    KEPT.append({"pool": [connection]})


def test_innocent_session_client(client):
    assert client.get() == b"ok"


def test_innocent_session_client_again(client):
    assert client.get() == b"ok"


def test_innocent_user_of_a_leaking_fixture(leaking_client):
    assert leaking_client.get() == b"ok"


def test_leak_udp():
    KEPT.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))


def test_leak_unix(tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    KEPT.append(listener)


def test_leak_late(server):
    threading.Timer(0.2, lambda: KEPT.append(socket.create_connection(server))).start()


def test_innocent_while_another_leaks():
    time.sleep(0.4)


def test_innocent_closed_by_a_thread(server):
    threading.Timer(0.1, socket.create_connection(server).close).start()


def test_innocent_netlink():
    KEPT.append(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))


def test_innocent_open_loop():
    loop = asyncio.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    KEPT.append(loop)


@pytest.mark.parametrize("leaks", [False, True])
def test_leak_of_one_parameter(leaks):
    if leaks:
        KEPT.append(socket.socket())


def test_failure_is_not_judged(server):
    KEPT.append(socket.create_connection(server))
    raise AssertionError


@pytest.mark.xfail(strict=True)
def test_expected_failure_is_not_judged(server):
    KEPT.append(socket.create_connection(server))
    raise AssertionError


@pytest.mark.parametrize("worker", range(6))
def test_innocent_last(server, client, worker):
    assert client.get() == b"ok"
    gc.collect()
