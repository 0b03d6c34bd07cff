"""What the tests of this room need: servers that leak."""

import pytest

from servers import compiled_server, start_server

__all__ = ["compiled_server", "start_server"]


@pytest.fixture(autouse=True)
def _as_a_user_types_it(request, monkeypatch, tmp_path):
    """Lets `run` put the program's folder on the path, which `make test` forbids so that the checkout stays out.

    The checkout stays out all the same, as the working directory is another one.
    """
    if request.module.__name__.rpartition(".")[2].startswith("test_run"):
        monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
        monkeypatch.chdir(tmp_path)
