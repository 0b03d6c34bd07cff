"""A server of http.server with a thread for each connection; `/wait` answers when there are news."""

import argparse
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import sockguard

NEWS = threading.Event()
"""Never comes, as many a thing that handlers wait for."""


class Server(sockguard.GuardedServerMixin, ThreadingHTTPServer):
    """The mixin comes first, and closes what a handler leaves open."""


class Handler(BaseHTTPRequestHandler):
    """Answers, and keeps the connection for the next request of the same client."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Says hello."""
        if self.path == "/wait":
            NEWS.wait()  # here nobody sees the client go
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"hello\n")


def main() -> None:
    """Serves for ever."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--fin-timeout", type=float, default=30, help="seconds")
    parser.add_argument("--idle-timeout", type=float, default=300, help="seconds")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    policy = sockguard.Policy(fin_timeout=options.fin_timeout, idle_timeout=options.idle_timeout)
    with Server(("127.0.0.1", options.port), Handler, policy=policy) as server:
        print("port", server.server_port, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
