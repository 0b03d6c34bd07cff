"""A server with a leak: server.py unread|eof_unread|eof_ignored|close.

It prints its port. `unread` never reads a connection, `eof_unread` reads once and then
waits elsewhere, `eof_ignored` reads the EOF and does not close, `close` has no leak. On
the line `read` it reads what is left of every connection and prints that in hexadecimal.
"""

import select
import socket
import sys

mode = sys.argv[1]
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connections = []
watched = {sys.stdin: None, listener: None}


def serve(connection: socket.socket) -> None:
    data = connection.recv(1 << 16)
    if mode == "eof_unread" or not data:
        del watched[connection]
    if mode == "close" and not data:
        connection.close()


def read_all() -> bytes:
    data = b""
    for connection in connections:
        while part := connection.recv(1 << 16, socket.MSG_DONTWAIT):
            data += part
    return data


while True:
    for ready in select.select(list(watched), [], [])[0]:
        if ready is listener:
            connection, _ = listener.accept()
            connections.append(connection)
            if mode != "unread":
                watched[connection] = None
        elif ready is sys.stdin:
            if sys.stdin.readline() != "read\n":
                sys.exit()
            print(read_all().hex(), flush=True)
        else:
            serve(ready)
