"""How does Python run a program? In the same way here, from inside another one, with nothing of ours in sight.

What Python does in C (Modules/main.c, Python/pythonrun.c of 3.11 to 3.13) is done again: what
stands in sys.argv, sys.path[0] and `__main__`, who is asked for the code, what is flushed
when. Only our frames lie below those of the program: they hold nothing that belongs to it,
and are taken out of the traceback of an exception that ends it. It ends as it would by
itself: exceptions, SystemExit too, pass through us up to the interpreter, which prints,
joins threads, runs atexit and chooses the status.
"""

import builtins
import contextlib
import importlib.machinery
import io
import os
import sys
from collections.abc import Callable
from functools import partial
from types import CodeType, ModuleType, TracebackType
from typing import Any, NamedTuple

__all__ = ["Program", "refuse_missing_script", "start"]


class Program(NamedTuple):
    """What is to be run, in the words of Python's own command line."""

    option: str
    """`-m`, `-c`, or nothing for a script, a folder, an archive or `-`."""
    name: str
    """The module, the code or the path."""
    arguments: list[str]


def refuse_missing_script(program: Program) -> None:
    """Ends as Python does if there is no such script, or it may not be read."""
    path = _absolute(program.name)
    if program.option or program.name == "-" or _can_be_imported_from(path):
        return
    try:
        with io.open_code(path):
            pass
    except OSError as error:
        reason = f"[Errno {error.errno}] {error.strerror}"
        print(f"{sys.orig_argv[0]}: can't open file {path!r}: {reason}", file=sys.stderr)
        sys.exit(2)


def start(program: Program) -> None:
    """Runs a program as `__main__`, in this thread, to the end of its main module.

    The caller gives up: sys.argv, sys.path and `__main__` are the program's from here on, and
    nothing of the caller should run after it.

    Raises:
        BaseException: What ended the program. Uncaught, it is shown without the frames below the program.
    """
    run = _set_the_scene(program)
    try:
        run()
    except SystemExit:
        raise
    except BaseException:
        _hide_our_frames()
        raise


def _set_the_scene(program: Program) -> Callable[[], object]:
    """Gives the program its sys.argv, sys.path and `__main__`; returns what runs it."""
    if not sys.flags.safe_path:
        del sys.path[:1]  # ours: the folder of the command `sockguard`, or with -m the working directory
    sys.argv[:] = [program.option or program.name, *program.arguments]
    if program.option == "-m":
        _put_first_in_path(_working_directory())
        return partial(_run_module, program.name, is_archive=False)
    if program.option == "-c":
        _put_first_in_path("")
        return partial(_run_text, program.name)
    if program.name == "-":
        _put_first_in_path("")
        return _run_stdin
    path = _absolute(program.name)
    if _can_be_imported_from(path):
        sys.path.insert(0, path)  # with -P too, as it was named
        return partial(_run_module, "__main__", is_archive=True)
    _put_first_in_path(os.path.dirname(os.path.realpath(path)))
    return partial(_run_file, path)


def _can_be_imported_from(path: str) -> bool:
    """Tells a folder or an archive, whose `__main__` is run, from a script."""
    for hook in sys.path_hooks:
        try:
            hook(path)
        except ImportError:
            continue
        return True
    return False


def _absolute(path: str) -> str:
    """Makes a path absolute as Python does: `..` and `.` stay; an empty one, or `.` alone, is the working directory."""
    folder = _working_directory() or ""
    return folder if path in {"", "."} else os.path.join(folder, path)


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return None


def _put_first_in_path(folder: str | None) -> None:
    if folder is not None and not sys.flags.safe_path:
        sys.path.insert(0, folder)


_replaced: list[ModuleType | None] = []
"""What was `__main__` before. Python's own C code runs the command `sockguard`, and keeps the dict of its module
without counting that: after an exception it lets the module go first, and then deletes `__file__` from the dict
(Python/pythonrun.c of 3.11 to 3.13, `_PyRun_SimpleFile`). Were ours the last reference, that would be freed memory."""


def _make_main(**names: object) -> dict[str, Any]:
    """Puts an empty module in the place of `__main__`; ours lives on, out of sight."""
    _replaced.append(sys.modules.get("__main__"))
    module = ModuleType("__main__")
    module.__loader__ = importlib.machinery.BuiltinImporter
    module.__dict__.update(__annotations__={}, __builtins__=builtins)
    module.__dict__.update(names)
    sys.modules["__main__"] = module
    return module.__dict__


def _run_module(name: str, *, is_archive: bool) -> None:
    # What Python itself calls, for its messages, its warnings, and its frames in tracebacks.
    from runpy import _run_module_as_main  # type: ignore[attr-defined]  # noqa: PLC0415

    _make_main()
    _run_module_as_main(name, not is_archive)


def _run_text(text: str) -> None:
    code = compile(text, "<string>", "exec", dont_inherit=True)
    if sys.version_info >= (3, 13):  # from there on tracebacks show these lines too
        import linecache  # noqa: PLC0415

        lines = [line + "\n" for line in text.splitlines()]
        linecache.cache["<string>"] = (len(text), None, lines, "<string>")
    _execute(code, _make_main())


def _run_stdin() -> None:
    text = sys.stdin.buffer.read() if sys.stdin else b""
    names = _make_main(__file__="<stdin>", __cached__=None)
    _execute(compile(text, "<stdin>", "exec", dont_inherit=True), names)


def _run_file(path: str) -> None:
    kind = "SourcelessFileLoader" if path.endswith(".pyc") else "SourceFileLoader"
    loader = getattr(importlib.machinery, kind)("__main__", path)
    names = _make_main(__loader__=loader, __file__=path, __cached__=None)
    _execute(_code_of(path, loader), names)


def _code_of(path: str, loader: importlib.machinery.SourceFileLoader) -> CodeType:
    if path.endswith(".pyc"):
        code = loader.get_code("__main__")
        assert code is not None  # noqa: S101 - only namespaces have none
        return code
    with io.open_code(path) as file:
        return compile(file.read(), path, "exec", dont_inherit=True)


def _execute(code: CodeType, names: dict[str, Any]) -> None:
    try:
        exec(code, names)  # noqa: S102 - that is what it is for
    finally:
        _flush()


def _flush() -> None:
    """Flushes as Python does when a main module has ended: before it waits for threads, or prints a traceback."""
    for stream in (sys.stderr, sys.stdout):
        with contextlib.suppress(Exception):  # it is tried once more at exit, and then it counts
            stream.flush()


def _hide_our_frames() -> None:
    """Sees to it that the exception, once it gets to the interpreter, is shown as if we were not there."""
    theirs = getattr(sys, "excepthook", sys.__excepthook__)

    def show(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
        sys.excepthook = theirs
        sys.last_traceback = error.__traceback__ = _without_our_frames(error.__traceback__)
        try:
            theirs(kind, error, error.__traceback__)
        except SystemExit:
            raise
        except BaseException as failure:  # noqa: BLE001 - in the interpreter's words, without the frame of `show`
            failure.__traceback__ = _without_our_frames(failure.__traceback__)
            print("Error in sys.excepthook:", file=sys.stderr)
            sys.__excepthook__(type(failure), failure, failure.__traceback__)
            print("\nOriginal exception was:", file=sys.stderr)
            sys.__excepthook__(kind, error, error.__traceback__)

    sys.excepthook = show


def _without_our_frames(trace: TracebackType | None) -> TracebackType | None:
    """Leaves out the frames of this module, and those of its callers."""
    while trace and trace.tb_frame.f_globals is not globals():
        trace = trace.tb_next
    while trace and trace.tb_frame.f_globals is globals():
        trace = trace.tb_next
    return trace
