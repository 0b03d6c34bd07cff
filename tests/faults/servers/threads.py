"""A server of plain sockets: accept in a loop, a thread for each connection."""

import contextlib
import socket
import ssl
import threading
import time

import blocking
import common


def handle(sock: socket.socket, context: ssl.SSLContext | None) -> None:
    """Serves one connection and closes it, unless the handler fails."""
    with contextlib.suppress(OSError):
        if context:
            sock = context.wrap_socket(sock, server_side=True)
        blocking.serve(sock)
    if sock not in common.KEPT:
        sock.close()


def main() -> None:
    """Accepts for ever; when there is no descriptor left it tries again a little later."""
    options = common.start()
    context = common.tls_context(options)
    threading.excepthook = common.ERRORS.append
    with common.listen(options) as listener:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError as error:
                if not common.is_full(error):
                    raise
                time.sleep(0.1)
            else:
                threading.Thread(target=handle, args=(sock, context), daemon=True).start()


if __name__ == "__main__":
    main()
