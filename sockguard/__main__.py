"""`python -m sockguard`, and the `sockguard` command."""

import importlib.util
import sys

__all__ = ["main"]


def main() -> None:
    """Runs the command line, or says in one line what to install for it."""
    missing = [name for name in ("click", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        needed = " and ".join(missing)
        print(f"sockguard: the command line needs {needed}: pip install 'sockguard[cli]'", file=sys.stderr)
        sys.exit(2)
    from sockguard.cli.main import run  # noqa: PLC0415 - needs the extra that was just looked for

    run()


if __name__ == "__main__":
    main()
