"""A server of the standard library's socketserver: ForkingTCPServer, a process for each connection."""

import socketserver

import blocking
import common
from threading_tcp import Mixin, run


class Server(socketserver.ForkingMixIn, Mixin):
    """A process for each connection, which ends with its handler and when the server ends."""

    def finish_request(self, request: object, client_address: object) -> None:
        """Serves in the child."""
        common.die_with_parent()
        super().finish_request(request, client_address)


if __name__ == "__main__":
    blocking.one_process_each[0] = True
    run(Server)
