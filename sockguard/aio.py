"""asyncio's servers and clients, guarded: `sockguard.aio.start_server` and its kin, as in asyncio plus `policy=`."""

import sockguard._process  # noqa: F401 - makes the guard that they share
from sockguard.adapters.loops.opening import *  # noqa: F403
from sockguard.adapters.loops.opening import __all__  # noqa: F401 - what this module offers is what that one does
