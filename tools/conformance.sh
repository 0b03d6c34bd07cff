#!/usr/bin/env bash
# CPython's own suites, guarded, on each version and by both ways in: no test may change its outcome.
#
#     tools/conformance.sh [--short] [VERSION...]     # 3.11 3.12 3.13 if none is given
#
# All of it takes some 45 minutes, --short less than four. What changed is run twice more, guarded and
# plain, so that a busy machine is not taken for a change. Exit status 0: nothing changed, or it could
# not be run here, which is said aloud; 1: something changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

suites=$(realpath -m ../shared/conformance)

# Servers, clients and waiting, a few seconds in all, by both ways in; besides, test_socket, which takes
# 30 seconds, by one. test_asyncio, of 70 to 100 seconds, is for the whole run.
short=(test_socketserver test_httpservers test_httplib test_epoll test_select test_smtplib test_timeout
    test_urllib2_localnet test_wsgiref test_robotparser test_docxmlrpc)

is_short=
if [ "${1-}" = --short ]; then
    is_short=1
    shift
fi
(($#)) || set -- 3.11 3.12 3.13

if [ ! -f "$suites/run.py" ]; then
    echo "SKIPPED: $suites is not here"
    exit 0
fi

has_python() { # VERSION: that very release, to which the recorded outcomes belong
    python3 -B -c 'import os, sys; sys.path.insert(0, sys.argv[1]); import suites
sys.exit(not os.path.exists(suites.SUITES["cpython-" + sys.argv[2]].python))' "$suites" "$1"
}

options=()
if ((EUID != 0)) || ! command -v unshare >/dev/null || ! command -v ip >/dev/null; then
    # The recorded outcomes are those of root in namespaces of its own; here a plain run goes before.
    echo "Not root, or without unshare and ip: ports can collide, and a run can take what another one left."
    options=(--no-ns --fresh)
fi

compare() { # VERSION OPTION...
    python3 -B "$suites/run.py" "cpython-$1" --with-sockguard --sockguard "$PWD" --confirm 2 "${options[@]}" "${@:2}"
}

changed=()
for version in "$@"; do
    if ! has_python "$version"; then
        echo "SKIPPED: the CPython $version that $suites asks for is not here"
    elif [ -z "$is_short" ]; then
        compare "$version" || changed+=("$version")
    else
        # shellcheck disable=SC2046 # each name is a word
        { compare "$version" $(printf -- '--module %s ' "${short[@]}") \
            && compare "$version" --activation env --module test_socket; } || changed+=("$version")
    fi
done
if ((${#changed[@]})); then
    echo "FAILED: outcomes changed, or could not be compared, on ${changed[*]}"
    exit 1
fi
