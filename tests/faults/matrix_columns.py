"""The columns of the fault matrix: nine ways to write a server in Python, and those that guard themselves."""

import importlib.util
from typing import NamedTuple

__all__ = ["COLUMNS", "Column"]


class Column(NamedTuple):
    """A kind of server: its program in servers/, and what must be installed for it."""

    name: str
    title: str
    program: str
    needs: tuple[str, ...] = ()
    has_parked_threads: bool = False
    """A handler that hangs has a thread or process of its own: only it can let go of the descriptor."""
    bare: str = ""
    """For one that guards itself, by the wrappers of sockguard: the same program without them."""
    is_twin: bool = False
    """Without the guard it is another column."""

    @property
    def missing(self) -> list[str]:
        return [name for name in self.needs if not importlib.util.find_spec(name)]


COLUMNS = {
    column.name: column
    for column in (
        Column("threads", "socket and threads", "threads.py", has_parked_threads=True),
        Column("threading-tcp", "ThreadingTCPServer", "threading_tcp.py", has_parked_threads=True),
        Column("forking-tcp", "ForkingTCPServer", "forking_tcp.py", has_parked_threads=True),
        Column("selectors", "selectors loop", "selectors_loop.py"),
        Column("streams", "asyncio streams", "asyncio_streams.py"),
        Column("protocol", "asyncio protocol", "asyncio_protocol.py"),
        Column("uvloop", "uvloop", "uvloop_protocol.py", ("uvloop",)),
        Column("anyio-trio", "anyio on trio", "anyio_trio.py", ("anyio", "trio")),
        Column("gevent", "gevent", "greenlets.py", ("gevent",)),
        Column(
            "guarded-threads",
            "GuardedSocket and threads",
            "guarded_threads.py",
            has_parked_threads=True,
            bare="threads.py",
            is_twin=True,
        ),
        Column(
            "guarded-threading",
            "GuardedServerMixin, ThreadingTCPServer",
            "guarded_threading_tcp.py",
            has_parked_threads=True,
            bare="threading_tcp.py",
            is_twin=True,
        ),
        Column("guarded-selectors", "GuardedSelector", "guarded_selectors.py", bare="selectors_loop.py", is_twin=True),
        Column("aio-streams", "sockguard.aio streams", "guarded_streams.py", bare="asyncio_streams.py", is_twin=True),
        Column(
            "aio-protocol", "sockguard.aio protocol", "guarded_protocol.py", bare="asyncio_protocol.py", is_twin=True
        ),
        Column(
            "guarded-trio",
            "sockguard.anyio on trio",
            "guarded_anyio_trio.py",
            ("anyio", "trio"),
            bare="anyio_trio.py",
            is_twin=True,
        ),
        Column(
            "guarded-anyio",
            "sockguard.anyio on asyncio",
            "guarded_anyio_asyncio.py",
            ("anyio",),
            bare="anyio_asyncio.py",
        ),
    )
}
