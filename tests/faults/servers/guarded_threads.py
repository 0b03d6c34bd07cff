"""threads.py with the listener of `sockguard.create_server`."""

import common
import threads
from explicit import policy_of

import sockguard

if __name__ == "__main__":
    common.make_listener[0] = lambda address, options: sockguard.create_server(
        address, backlog=options.backlog, policy=policy_of(options)
    )
    threads.main()
