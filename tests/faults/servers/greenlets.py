"""A server of gevent: StreamServer, a greenlet for each connection, the standard library patched."""

# ruff: noqa: E402 - patching comes before anything that could take an unpatched name

from gevent import monkey

monkey.patch_all()

import contextlib
import socket

import blocking
import common
import gevent
from gevent.server import StreamServer


class Server(StreamServer):
    """A StreamServer that leaves alone what the program keeps."""

    def do_close(self, sock: socket.socket, *_: object) -> None:
        """Closes when the handler has returned or failed."""
        if sock not in common.KEPT:
            sock.close()


def handle(sock: socket.socket, _: object) -> None:
    """Serves one connection; gevent closes it."""
    with contextlib.suppress(OSError):
        blocking.serve(sock)


def main() -> None:
    """Serves for ever."""
    common.native["sleep"] = monkey.get_original("time", "sleep")
    blocking.outside[0] = lambda function, number: gevent.get_hub().threadpool.apply(function, (number,))
    options = common.start()
    context = common.tls_context(options)
    secure = {"ssl_context": context} if context else {}
    Server(common.listen(options), handle, **secure).serve_forever()


if __name__ == "__main__":
    main()
