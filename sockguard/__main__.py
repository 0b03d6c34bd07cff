"""`python -m sockguard`, and the `sockguard` command."""

import sys

__all__ = ["main"]


def main() -> None:
    """Runs a command. `run` has a way of its own: it needs no extra, and its program should not find one loaded."""
    if sys.argv[1:2] == ["run"]:
        from sockguard.cli.run import run  # noqa: PLC0415 - as little as can be

        run(sys.argv[2:])
    else:
        _run_command()


def _run_command() -> None:
    """Runs the command line, or says in one line what to install for it."""
    import importlib.util  # noqa: PLC0415 - not for `run`

    missing = [name for name in ("click", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        needed = " and ".join(missing)
        print(f"sockguard: the command line needs {needed}: pip install 'sockguard[cli]'", file=sys.stderr)
        sys.exit(2)
    from sockguard.cli.main import run  # noqa: PLC0415 - needs the extra that was just looked for

    run()


if __name__ == "__main__":
    main()
