"""What the tests of this room need: servers that leak."""

from servers import compiled_server, start_server

__all__ = ["compiled_server", "start_server"]
