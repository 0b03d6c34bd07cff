#!/usr/bin/env bash
# Other people's suites with our wrappers in the place of the originals: no test may change its outcome but named ones.
#
#     tools/conformance_wrappers.sh [SUITE...]     # socket socketserver selectors asyncio anyio if none is given
#     PYTHON=python3.12 tools/conformance_wrappers.sh socket
#
# Each suite is run plainly and with the wrapper, by one interpreter (CPython 3.13 with its tests, of pyenv, unless
# PYTHON says otherwise) in an environment that is kept in .venv-wrappers-VERSION; what differs is run again. It takes
# some five minutes. Exit status 0: nothing changed, or it could not be run here, which is said aloud; 1: something changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck disable=SC2012 # versions hold no odd characters
python=${PYTHON:-$(ls -rd "$HOME"/.pyenv/versions/3.13.*/bin/python 2>/dev/null | head -n 1)}
if [ -z "$python" ] || ! "$python" -c 'import test.test_socket' 2>/dev/null; then
    echo "SKIPPED: no CPython 3.13 with its own tests is here; name one by PYTHON"
    exit 0
fi

venv=.venv-wrappers-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if ! "$venv/bin/python" -c 'import sockguard' 2>/dev/null; then
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e .
fi
guarded=$PWD/$venv/bin/python
shim=$PWD/tools/conformance_shim

compare() { # SWAP MODULE...
    "$guarded" -P "$shim/compare.py" "$guarded" "$@"
}

run_suite() { # SUITE
    case $1 in
    socket)
        compare socket test_socket test_ssl test_select test_poll test_epoll test_selectors test_timeout test_asyncio \
            test_socketserver test_httplib test_httpservers test_ftplib test_smtplib test_imaplib test_poplib test_xmlrpc \
            test_urllib2_localnet
        ;;
    socketserver) compare socketserver test_socketserver test_httpservers test_xmlrpc test_docxmlrpc test_urllib2_localnet ;;
    *)
        if [ ! -f "$shim/$1_shim.py" ]; then
            echo "There is no suite $1"
            return 2
        fi
        PYTHONPATH=$shim "$guarded" -P "$shim/$1_shim.py"
        ;;
    esac
}

(($#)) || set -- socket socketserver selectors asyncio anyio
changed=()
for suite in "$@"; do
    echo "== $suite"
    run_suite "$suite" || changed+=("$suite")
done
if ((${#changed[@]})); then
    echo "FAILED: outcomes changed, or could not be compared: ${changed[*]}"
    exit 1
fi
