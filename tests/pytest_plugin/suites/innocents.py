"""Innocent tests of many kinds, each several times: what they open is closed, by themselves, a thread or a fixture."""

import asyncio
import gc
import http.client
import multiprocessing
import os
import socket
import socketserver
import ssl
import subprocess
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

TIMES = int(os.environ.get("INNOCENT_TIMES", "2"))
pytestmark = pytest.mark.parametrize("time", range(TIMES))


def url(address):
    return f"http://{address[0]}:{address[1]}/"


@pytest.fixture(scope="class")
def class_pool(server):
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def module_pair():
    near, far = socket.socketpair()
    with near, far:
        yield near, far


@pytest.fixture
def connection(server):
    with socket.create_connection(server) as made:
        yield made


def test_nothing(time):
    pass


def test_garbage(time):
    cycle = []
    cycle.append(cycle)
    del cycle
    gc.collect()


def test_plain(time, connection):
    connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
    assert connection.recv(100)


def test_urlopen(time, server):
    with urllib.request.urlopen(url(server)) as answer:
        assert answer.read() == b"ok"


def test_http_client(time, server):
    client = http.client.HTTPConnection(*server)
    client.request("GET", "/")
    assert client.getresponse().read() == b"ok"
    client.close()


def test_session_client(time, client):
    assert client.get() == b"ok"


def test_module_pair(time, module_pair):
    module_pair[0].send(b"x")
    assert module_pair[1].recv(1) == b"x"


def test_refused(time):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(taken.getsockname())


def test_timeout(time):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.001)
        with pytest.raises(TimeoutError) as info:
            listener.accept()
    assert info


def test_streams(time, server):
    async def main():
        reader, writer = await asyncio.open_connection(*server)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        await reader.read()
        writer.close()

    asyncio.run(main())


def test_cancelled(time, server):
    async def main():
        async with asyncio.timeout(0.01):
            reader, writer = await asyncio.open_connection(*server)
            try:
                await reader.read()
            finally:
                writer.close()

    with pytest.raises(TimeoutError):
        asyncio.run(main())


def test_echo_server(time):
    async def main():
        async def handle(reader, writer):
            writer.write(await reader.readline())
            writer.close()

        async with await asyncio.start_server(handle, "127.0.0.1", 0) as made:
            reader, writer = await asyncio.open_connection(*made.sockets[0].getsockname())
            writer.write(b"x\n")
            assert await reader.read() == b"x\n"
            writer.close()
            await writer.wait_closed()

    asyncio.run(main())


def test_threading_server(time):
    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(self.rfile.readline())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        with socket.create_connection(made.server_address) as sock:
            sock.sendall(b"x\n")
            assert sock.recv(10) == b"x\n"
        made.shutdown()
        thread.join()


def test_executor(time, server):
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(socket.create_connection, server) for _ in range(3)]:
            future.result().close()


class TestPool:
    def test_class_pool(self, time, class_pool, server):
        class_pool.submit(socket.create_connection, server).result().close()


def test_closed_by_a_thread(time, server):
    threading.Timer(0.02, socket.create_connection(server).close).start()


def test_udp(time):
    with socket.socket(type=socket.SOCK_DGRAM) as near, socket.socket(type=socket.SOCK_DGRAM) as far:
        near.bind(("127.0.0.1", 0))
        far.sendto(b"x", near.getsockname())
        assert near.recv(1) == b"x"


def test_detached(time, server):
    first = socket.create_connection(server)
    with socket.socket(fileno=first.detach()):
        pass


def test_tls_that_fails(time, server):
    context = ssl.create_default_context()
    with socket.create_connection(server) as sock:
        sock.settimeout(0.01)
        with pytest.raises(OSError):  # noqa: PT011 - refused by TLS, or too late
            context.wrap_socket(sock, server_hostname="localhost")


def test_subprocess(time):
    subprocess.run(["true"], check=True)


def test_asyncio_subprocess(time):
    async def main():
        process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
        assert (await process.communicate(b"x"))[0] == b"x"

    asyncio.run(main())


def test_pipe(time):
    near, far = multiprocessing.Pipe()
    with near, far:
        near.send(1)
        assert far.recv() == 1


def test_fork(time, connection):
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)


def test_name_lookup(time):
    assert socket.getaddrinfo("localhost", 80)


def test_open_loop_of_a_fixture(time, loop):
    loop.run_until_complete(asyncio.sleep(0))


@pytest.fixture(scope="module")
def loop():
    made = asyncio.new_event_loop()
    yield made
    made.close()
