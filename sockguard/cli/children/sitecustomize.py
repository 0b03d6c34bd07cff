"""Guards a Python process that was started by a program under `sockguard run --children`.

It is on PYTHONPATH, so that Python imports it at start, before any program; any Python, also
one that is too old for sockguard. It takes the place of a `sitecustomize` that the user may
have, or may not: so it leaves sys.path and sys.modules, and imports that one in its turn.
Where there is none, the ImportError is what Python's site.py expects to see.
"""

import os
import sys

here = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [folder for folder in sys.path if folder != here]
us = sys.modules.pop("sitecustomize")  # held, as Python 2 clears a module that is let go

try:
    __import__("sitecustomize")  # the user's
finally:
    if sys.version_info >= (3, 11) and os.environ.get("SOCKGUARD_CHILDREN"):
        # The parent may have found sockguard in its working directory, which is not here.
        sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(here))))
        try:
            from sockguard.cli.run_guard import guard_child

            guard_child()
        finally:
            del sys.path[-1]
