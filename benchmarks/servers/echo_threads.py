"""Echo with a blocking thread for each connection: `echo_threads.py [HOST]`, prints its port."""

import socketserver
import sys


class Echo(socketserver.BaseRequestHandler):
    """Echoes until the client has closed."""

    def handle(self) -> None:
        """Serves one connection."""
        try:
            while data := self.request.recv(65536):
                self.request.sendall(data)
        except ConnectionResetError:
            pass


class Server(socketserver.ThreadingTCPServer):
    """Takes a thousand connections at once."""

    request_queue_size = 4096
    daemon_threads = True


if __name__ == "__main__":
    host = sys.argv[1] if sys.argv[1:] else "127.0.0.1"
    with Server((host, 0), Echo) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
