"""trio takes accept() of the standard library's sockets when it is imported; the guard may be installed after that."""

import sys

import pytest

from interpreters import run_program

PROGRAM = """
import functools, sys
if "before" == {order!r}:
    import trio
import sockguard

def original():
    import trio
    return vars(trio._socket._SocketType)["_accept"]

before = "trio" in sys.modules and original()
guard = sockguard.install(leak_after=None)
import trio

async def main():
    kept = []
    async def keep(stream):
        async with stream:
            kept.append(stream.socket)
            await trio.sleep_forever()
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(functools.partial(trio.serve_tcp, keep, 0, host="127.0.0.1"))
        client = await trio.open_tcp_stream(*listener.socket.getsockname()[:2])
        with trio.move_on_after(20):
            while not (kept and [bool(r.cookie) for r in guard.registry.records()] == [True, True]):
                await trio.sleep(0.01)
        sides = {{r.fd: r.is_server for r in guard.registry.records()}}
        print(sides == {{client.socket.fileno(): False, kept[0].fileno(): True}})
        [server] = [r for r in guard.registry.records() if r.is_server]
        print(server.has_object, server.site is not None)
        await client.aclose()
        nursery.cancel_scope.cancel()

trio.run(main)
sockguard.uninstall()
print(before is False or original() is before)
"""


@pytest.mark.parametrize("order", ["before", "after"])
def test_both_sides_are_adopted(order):
    """Whichever was first, with the object and the line of each; and uninstall() leaves the very method of before."""
    pytest.importorskip("trio", reason="needs trio: nothing of it was tested")
    assert run_program(sys.executable, PROGRAM.format(order=order), timeout=60) == ["True", "True True", "True"]


OTHER = """
import sys, types
sys.modules["trio._socket"] = module = types.ModuleType("trio._socket")
class _SocketType:
    async def _accept(self):
        ...
module._SocketType = _SocketType
before = dict(vars(_SocketType))
import sockguard
sockguard.install()
print(dict(vars(_SocketType)) == before)
"""


def test_another_version_of_trio_is_passed_over():
    """One that is made otherwise is not adopted by this door, and nothing of it is touched."""
    assert run_program(sys.executable, OTHER) == ["True"]
