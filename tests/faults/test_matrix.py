"""Some cells of the fault matrix; `make matrix` runs all of them. See matrix.py."""

import pytest

from faults.matrix import Result, run_all
from faults.matrix_rows import ROWS

pytestmark = [pytest.mark.slow, pytest.mark.one_python]

CELLS = """
    fin-ignored/threads fin-ignored/streams fin-ignored/uvloop fin-ignored/gevent fin-ignored/anyio-trio
    fin-paused/protocol fin-read-late/threading-tcp fork-shared/selectors half-close-stream/streams
    half-close-late/forking-tcp mute/selectors vanished-idle/threads tls-truncated/streams emfile-mute/protocol
    fin-ignored/guarded-threads fin-read-late/guarded-threading fin-ignored/guarded-selectors mute/aio-protocol
    half-close-stream/aio-streams fin-paused/guarded-trio fin-ignored/guarded-anyio
""".split()
AT_ONCE = 7


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    """Runs the cells, several at a time, since they mostly wait."""
    cells = [tuple(cell.split("/")) for cell in CELLS]
    return {f"{result.row}/{result.column}": result for result in run_all(cells, ["guarded"], AT_ONCE)}


@pytest.mark.parametrize("cell", CELLS)
def test_fault(results, cell):
    """With the guard each fault on each kind of server comes out as the policy says, and healthy clients are served."""
    verdict = results[cell].verdict
    if verdict.text.startswith("not run"):
        pytest.skip(f"{cell}: {verdict.text}")
    assert verdict.wrong == (), results[cell].seen


def test_the_cells_are_cells():
    """The cells that are tested here are rows and columns of the matrix."""
    assert {cell.partition("/")[0] for cell in CELLS} <= ROWS.keys()
