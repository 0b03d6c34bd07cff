"""A TLS client that keeps its connection after the server has closed: tls_client.py PORT VERSION.

It reads one greeting, prints the cipher, and waits for its standard input to end.
"""

import socket
import ssl
import sys
from pathlib import Path

context = ssl.create_default_context(cafile=Path(__file__).with_name("localhost.pem"))
context.minimum_version = context.maximum_version = ssl.TLSVersion[sys.argv[2]]
with (
    socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as plain,
    context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
):
    connection.recv(100)
    print(connection.cipher()[0], flush=True)
    sys.stdin.read()
