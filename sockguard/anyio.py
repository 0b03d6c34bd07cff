"""anyio's listeners and streams, guarded, on asyncio and trio: as in anyio plus `policy=`."""

import sockguard._process  # noqa: F401 - makes the guard that they share
from sockguard.adapters.streams.opening import *  # noqa: F403
from sockguard.adapters.streams.opening import __all__  # noqa: F401 - what this module offers is what that one does
