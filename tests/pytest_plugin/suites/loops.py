"""Event loops of every kind and scope: a leak is named `leak`, all others are innocent."""

import asyncio
import socket
import unittest

import anyio
import pytest
import pytest_asyncio
import uvloop

KEPT = []


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def echo():
    async def handle(reader, writer):
        try:
            while await reader.readline():
                writer.write(b"x\n")
                await writer.drain()
        finally:
            writer.close()

    made = await asyncio.start_server(handle, "127.0.0.1", 0)
    yield made.sockets[0].getsockname()
    made.close()  # and no wait_closed(): from Python 3.12 on it waits for those connections that tests leak


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared_client(echo):
    """Is connected when it is first used, in some test."""
    opened = []

    async def ask():
        if not opened:
            opened.extend(await asyncio.open_connection(*echo))
        opened[1].write(b"a\n")
        return await opened[0].readline()

    yield ask
    opened[1].close()
    await opened[1].wait_closed()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def parking():
    """A server that keeps what the client has left."""
    kept = []

    async def handle(_, writer):
        kept.append(writer)
        await asyncio.Event().wait()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()
    server.close()
    for writer in kept:
        writer.close()


in_module_loop = pytest.mark.asyncio(loop_scope="module")


@in_module_loop
async def test_shared_client(shared_client):
    assert await shared_client() == b"x\n"


@in_module_loop
async def test_shared_client_again(shared_client):
    assert await shared_client() == b"x\n"


@in_module_loop
async def test_close_without_waiting(echo):
    _, writer = await asyncio.open_connection(*echo)
    writer.close()


@in_module_loop
async def test_close_and_wait(echo):
    _, writer = await asyncio.open_connection(*echo)
    writer.close()
    await writer.wait_closed()


@in_module_loop
async def test_leak_writer_in_module_loop(echo):
    KEPT.append((await asyncio.open_connection(*echo))[1])


@in_module_loop
async def test_leak_parked_task(echo):
    async def park():
        _, _writer = await asyncio.open_connection(*echo)
        await asyncio.Event().wait()

    KEPT.append(asyncio.create_task(park()))
    await asyncio.sleep(0.05)


@in_module_loop
async def test_leak_of_server_in_module_loop(parking):
    _, writer = await asyncio.open_connection(*parking)
    writer.close()
    await writer.wait_closed()


@in_module_loop
async def test_time_passes_in_module_loop():
    await asyncio.sleep(0.3)


@in_module_loop
async def test_last_in_module_loop():
    await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_leak_in_function_loop(server):
    await asyncio.open_connection(*server)


@pytest.mark.asyncio
async def test_function_loop(server):
    _, writer = await asyncio.open_connection(*server)
    writer.close()


def test_uvloop(server):
    async def main():
        _, writer = await asyncio.open_connection(*server)
        writer.close()
        await writer.wait_closed()

    uvloop.run(main())


def test_uvloop_server():
    async def main():
        async with await asyncio.start_server(lambda _, w: w.close(), "127.0.0.1", 0) as made:
            reader, writer = await asyncio.open_connection(*made.sockets[0].getsockname())
            await reader.read()
            writer.close()

    uvloop.run(main())


def test_leak_uvloop(server):
    async def main():
        KEPT.append((await asyncio.open_connection(*server))[1])

    uvloop.run(main())


def test_leak_uvloop_forgotten(server):
    async def main():
        await asyncio.open_connection(*server)

    uvloop.run(main())


def test_leak_uvloop_server():
    async def main():
        await asyncio.start_server(lambda _, w: w.close(), "127.0.0.1", 0)

    uvloop.run(main())


def test_uvloop_is_left_open():
    loop = uvloop.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    KEPT.append(loop)


class TestUnittest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.shared = socket.socket()

    @classmethod
    def tearDownClass(cls):
        cls.shared.close()

    def test_unittest(self):
        assert self.shared

    def test_leak_unittest(self):
        KEPT.append(socket.socket())


class TestIsolated(unittest.IsolatedAsyncioTestCase):
    async def test_isolated(self):
        await asyncio.sleep(0)

    async def test_leak_isolated(self):
        KEPT.append(socket.socketpair()[0])


class TestClassFixture:
    @pytest.fixture(scope="class", autouse=True)
    def _client(self, request, server):
        request.cls.client = socket.socket()
        yield
        request.cls.client.close()

    def test_class_fixture(self, server):
        self.client.connect(server)


class TestLeakingClass:
    @classmethod
    def setup_class(cls):
        cls.shared = socket.socket()

    def test_user_of_setup_class(self):
        assert self.shared


@pytest.mark.anyio
async def test_anyio():
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with await anyio.connect_tcp("127.0.0.1", port):
            pass


@pytest.mark.anyio
async def test_leak_anyio():
    KEPT.append(await anyio.create_tcp_listener(local_host="127.0.0.1"))


def test_subtests(subtests):
    with subtests.test("innocent"):
        socket.socket().close()


def test_leak_subtests(subtests):
    with subtests.test("guilty"):
        KEPT.append(socket.socket())


def example():
    """Is a doctest that leaks.

    >>> KEPT.append(socket.socket())
    """


def innocent_example():
    """Is a doctest that does not.

    >>> socket.socket().close()
    """
