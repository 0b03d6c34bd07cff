"""Twelve kinds of leak, each in a test named for it; then an innocent test, in which garbage is collected."""

import asyncio
import gc
import os
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvloop

KEPT = []
EXECUTOR = ThreadPoolExecutor(1)


def test_refcount(server):
    socket.create_connection(server)


def test_innocent_after_refcount():
    gc.collect()


def test_cycle(server):
    cycle = [socket.create_connection(server)]
    cycle.append(cycle)


def test_innocent_after_cycle():
    gc.collect()


def test_module_global(server):
    KEPT.append(socket.create_connection(server))


def test_innocent_after_module_global():
    gc.collect()


@pytest.mark.asyncio
async def test_stored_writer(server):
    KEPT.append((await asyncio.open_connection(*server))[1])


def test_innocent_after_stored_writer():
    gc.collect()


@pytest.mark.asyncio
async def test_parked_task(server):
    async def park():
        _, _writer = await asyncio.open_connection(*server)
        await asyncio.Event().wait()

    KEPT.append(asyncio.create_task(park()))
    await asyncio.sleep(0.05)


def test_innocent_after_parked_task():
    gc.collect()


def test_session_fixture(session_fixture):
    assert session_fixture.fileno() >= 0


def test_innocent_after_session_fixture():
    gc.collect()


def test_subprocess(server, children):
    sock = socket.create_connection(server)
    process = subprocess.Popen(["sleep", "60"], pass_fds=[sock.fileno()])
    KEPT.append(process)
    children.append(process.pid)
    sock.close()


def test_innocent_after_subprocess():
    gc.collect()


def test_executor_thread(server):
    KEPT.append(EXECUTOR.submit(socket.create_connection, server).result())


def test_innocent_after_executor_thread():
    gc.collect()


def test_forked_child(server, children):
    sock = socket.create_connection(server)
    pid = os.fork()
    if not pid:
        time.sleep(60)
        os._exit(0)
    children.append(pid)
    sock.close()


def test_innocent_after_forked_child():
    gc.collect()


def test_uvloop(server):
    async def main():
        KEPT.append((await asyncio.open_connection(*server))[1])

    uvloop.run(main())


def test_innocent_after_uvloop():
    gc.collect()


def test_accept_queue(deaf_server):
    socket.create_connection(deaf_server).close()


def test_innocent_after_accept_queue():
    gc.collect()


class Client:
    """Keeps its connections for the next question, as clients do."""

    def __init__(self):
        self.pool = []

    def ask(self, address):
        connection = self.pool.pop() if self.pool else socket.create_connection(address)
        connection.sendall(b"question\n")
        connection.recv(100)
        self.pool.append(connection)


CLIENT = Client()


def test_client_pool(server):
    CLIENT.ask(server)


def test_innocent_after_client_pool():
    gc.collect()
