"""`make differential`: plays the scripts, prints one line, and fails if anything differed."""

import argparse
import shlex
import sys
import time

from differential.runner import Outcome, Plan, play
from differential.script import KINDS


def main() -> int:
    """Gives the exit status: 0 if nothing was lost and nobody wrongly closed."""
    parser = argparse.ArgumentParser(prog="differential", description=__doc__)
    parser.add_argument("--connections", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="which scripts; default: new ones")
    parser.add_argument("--players", type=int, default=2, help="client processes")
    parser.add_argument("--concurrency", type=int, default=300, help="scripts at a time, in each player")
    parser.add_argument("--patient", type=int, default=1000, help="so many scripts of a minute each, among the others")
    parser.add_argument("--late", type=float, default=0, help="only half-closed clients, answered so many seconds late")
    parser.add_argument("--policy", default="", help='options for `sockguard run`, such as "--fin-timeout 0.3"')
    parser.add_argument("--bare", action="store_true", help="bare servers on both sides, to test the scripts")
    options = parser.parse_args()
    guarded = () if options.bare else ("-m", "sockguard", "run", *shlex.split(options.policy))
    plan = Plan(
        connections=options.connections,
        seed=options.seed,
        players=options.players,
        concurrency=options.concurrency,
        patient=options.patient,
        late=options.late,
        guarded=guarded,
    )
    return tell(play(plan), plan)


def tell(outcome: Outcome, plan: Plan) -> int:
    """Prints what was found, and gives the exit status."""
    lines = [*map(str, outcome.samples), outcome.errors.rstrip()]
    lines += [f"seed {plan.seed}, {outcome.n_guarded_servers} of {len(KINDS)} servers guarded"]
    if outcome.bare_wrong:
        lines += [f"{outcome.bare_wrong} went wrong without the guard too: a bug of this test, or a machine out of air"]
    sys.stdout.write("\n".join(filter(None, [*lines, str(outcome)])) + "\n")
    is_complete = not plan.guarded or outcome.n_guarded_servers == len(KINDS)
    return int(not is_complete or outcome.different > 0 or outcome.bare_wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
