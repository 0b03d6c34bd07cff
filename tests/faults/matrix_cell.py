"""One cell, in a process of its own and, where that can be had, in a network namespace of its own."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from faults.matrix_columns import COLUMNS, Column
from faults.matrix_judge import Seen, ours_in
from faults.matrix_rows import ROWS, Expect, Row
from faults.matrix_scene import (
    PATIENCE,
    PEM,
    PR_SET_CHILD_SUBREAPER,
    SERVERS,
    Client,
    Lost,
    Scene,
    Server,
    descendants,
    end_all,
    watch,
)

__all__ = ["run_cell"]

EVENTS = {
    "connection_closed": "If that is wrong, change ",
    "leak_detected": "Leaked connection ",
    "accept_queue_stuck": "Nothing was accepted on ",
    "fd_limit_near": " descriptors are in use, ",
    "loop_stalled": " has not come round for ",
}
"""By what of its sentence an event is known in the program's log."""
OWN_FAILURE = "This is a bug of sockguard"
FAILED = "sockguard report failed"
REPORT_TAKES_AT_MOST = 15.0
SETTLE = 0.3
"""Seconds that the guard may need until it has heard of a connection."""


class Canary(threading.Thread):
    """A healthy connection beside the sick ones: it sends, and gets all back, for as long as the cell takes."""

    EVERY = 0.3
    PING = b"0123456789abcdef" * 16

    def __init__(self, scene: Scene) -> None:
        super().__init__(daemon=True)
        self.complaint = ""
        self.is_enough = threading.Event()
        self.client = Client(scene.server, tls=scene.tls).say("echo")
        self.client.sock.settimeout(2 * PATIENCE)
        self.start()

    def run(self) -> None:
        """Sends and compares."""
        with contextlib.suppress(OSError):
            try:
                while not self.is_enough.wait(self.EVERY):
                    self.client.sock.sendall(self.PING)
                    self.client.expect(self.PING)
            except (Lost, OSError) as error:
                self.complaint = str(error)
            self.client.close()

    def end(self) -> str:
        """Stops, and gives the complaint, if there is one."""
        self.is_enough.set()
        self.join(3 * PATIENCE)
        return self.complaint or ("no answer" if self.is_alive() else "")


def command(row: Row, column: Column, *, guarded: bool) -> list[str]:
    """Gives the command line of the server."""
    words = [*(["--tls", str(PEM)] if row.tls else []), *row.program]
    if column.bare and guarded:
        policy = [f"{name}={value}" for name, value in fields(row)]
        environment = [f"SOCKGUARD_{name.upper()}={value}" for name, value in fields(row)]
        return ["env", *environment, sys.executable, str(SERVERS / column.program), *words, "--policy", *policy]
    guard = ["-P", "-m", "sockguard", "run", *row.options] if guarded else []
    return [sys.executable, *guard, str(SERVERS / (column.bare or column.program)), *words]


def fields(row: Row) -> list[tuple[str, str]]:
    """Gives a row's options as fields of a policy."""
    pairs = zip(row.options[::2], row.options[1::2], strict=True)
    return [(name.removeprefix("--").replace("-", "_"), value) for name, value in pairs]


def run_cell(row_name: str, column_name: str, *, guarded: bool) -> Seen:
    """Starts the server, makes the trouble, looks at what comes of it, and ends all that it started."""
    row, column = ROWS[row_name], COLUMNS[column_name]
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        try:
            seen = play(Scene(Server(command(row, column, guarded=guarded), log), row.tls), row, guarded=guarded)
        except (Lost, OSError, AssertionError) as error:
            seen = Seen(not_played=str(error))
        finally:
            end_all()
        seen.log = log.read_text(errors="replace")
    seen.ours = [*ours_in(seen.log), *(cause for cause in seen.causes if cause.startswith(FAILED))]
    seen.ours += [line for line in seen.log.splitlines() if OWN_FAILURE in line]
    seen.events = [event for event, words in EVENTS.items() if words in seen.log]
    seen.took = round(time.monotonic() - begun, 1)
    return seen


def play(scene: Scene, row: Row, *, guarded: bool) -> Seen:
    """Makes the trouble beside a healthy connection, and watches."""
    canary = Canary(scene)
    time.sleep(SETTLE)
    seen = Seen()
    row.fault(scene)
    watch(scene, (scene.patients[0].since if scene.patients else 0) + (row.watch_for if guarded else row.within + 0.2))
    seen.patients = [vars(patient) for patient in scene.patients]
    kept = any(patient.released_after is None for patient in scene.patients)
    seen.causes = causes(scene.server.pid) if guarded and kept else []
    seen.fresh = "" if row.expect is Expect.SERVED else scene.fresh()
    seen.canary, seen.is_alive = canary.end(), scene.server.is_alive
    seen.lost, seen.notes = scene.lost, scene.notes
    return seen


def causes(pid: int) -> list[str]:
    """Asks `sockguard report` what it makes of what is left; where it fails, that is what it says."""
    words = [sys.executable, "-X", "faulthandler", "-P", "-m", "sockguard", "report", "--json", "--min-age", "0"]
    pids = [word for each in sorted(scene_pids(pid)) for word in ("--pid", str(each))]
    with subprocess.Popen([*words, *pids], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            out, err = process.communicate(timeout=REPORT_TAKES_AT_MOST)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # faulthandler shows where it hangs
            out, err = process.communicate()
            err = f"it hangs: {err}"
    with contextlib.suppress(ValueError):
        return sorted({leak["cause"] for leak in json.loads(out)["leaks"]})
    return [f"{FAILED}: {err.strip()[:1000]}"]


def scene_pids(pid: int) -> set[int]:
    """Lists the server and all that it has started."""
    return {pid} | descendants(os.getpid()) - {os.getpid()}


def main(words: Sequence[str]) -> None:
    """Runs the cell ROW COLUMN bare|guarded, and prints what was seen."""
    row, column, kind = words
    seen = run_cell(row, column, guarded=kind == "guarded")
    sys.stdout.write(json.dumps(seen.as_json()))


if __name__ == "__main__":
    main(sys.argv[1:])
