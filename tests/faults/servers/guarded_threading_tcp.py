"""threading_tcp.py with `sockguard.GuardedServerMixin`."""

import common
import threading_tcp
from explicit import policy_of

import sockguard


class Server(sockguard.GuardedServerMixin, threading_tcp.Server):
    """A thread for each connection, which is closed when its handler has ended."""


if __name__ == "__main__":
    common.on_start.append(lambda options: setattr(Server, "policy", policy_of(options)))
    threading_tcp.run(Server)
