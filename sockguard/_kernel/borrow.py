"""How the guard touches a connection of its own process, from whatever thread: by a duplicate that it has verified.

A descriptor's number is not an identity: between a look and an act it may have been given
to another connection. A duplicate is one: it stays what it was when it was made. So every
look and every act goes through a duplicate whose cookie was checked first.

All duplicates share one number, which the guard takes at its start and never gives back:
dup2(2) puts the connection there, and afterwards a blank socket. So nothing needs a free
descriptor: it works when the process has none left, which is when it is needed most.

The guard's own numbers are no identity either. A program that turns itself into a daemon
closes all descriptors, ours too, and its next file gets our number: then to dup2 onto it
would close a file of the program. So each time the number is first looked at (is it still
our blank socket? blank.py), and if not, it is left to whom it belongs by now.
"""

import _socket
import errno
import os
from types import TracebackType

from sockguard._kernel.blank import Blank
from sockguard._kernel.one_socket import read_cookie
from sockguard._kernel.pidfd import no_fork
from sockguard.errors import InternalError

__all__ = ["Borrower", "Gone"]


class Gone(Exception):
    """Is raised when a descriptor is closed, or another connection by now."""


class Borrower:
    """Lends connections of this process, one at a time; threads wait for each other, and forks for all.

    Raises:
        OSError: EMFILE, if not even two descriptors are left.
    """

    def __init__(self) -> None:
        self._is_lent = False
        self._open()

    def _open(self) -> None:
        self._blank = Blank()
        self._lent = Blank(self._blank)

    def borrow(self, fd: int, cookie: int | None = None) -> "_Loan":
        """Lends the connection behind a descriptor, as a context manager.

        Close neither it nor its descriptor; use it only inside of the `with`, and borrow
        nothing else there.

        Args:
            cookie: Which connection it must be; None for whichever it is.

        Raises:
            Gone: The descriptor is closed, is no socket, or not that connection.
            OSError: EMFILE, if the program has lowered its limit of descriptors below our number, and all below are
                taken.
        """
        return _Loan(self, fd, cookie)

    def lend(self, fd: int, cookie: int | None) -> _socket.socket:
        """Begins a loan; for `borrow` only, which holds `no_fork`.

        Raises:
            Gone: See `borrow`.
            OSError: See `borrow`.
        """
        if self._is_lent:
            raise InternalError("a connection is borrowed while another one is")
        if not self._blank.is_ours_as(self._lent):
            self._open()  # the old ones let go of their numbers, each of what is still its own
        try:
            os.dup2(fd, self._lent.fileno(), False)  # not inheritable; a keyword would cost a tenth of the call
        except OSError as error:
            self._make_sure(fd, error)
        self._is_lent = True
        lent = self._lent.socket
        try:
            found = read_cookie(lent)
        except OSError:
            found = -1  # no socket
        if found != cookie and (cookie is not None or found < 0):
            self.take_back()
            raise Gone
        return lent

    def _make_sure(self, fd: int, error: OSError) -> None:
        """Puts a connection at our number for which dup2 has failed, or finds that it is gone.

        EBADF is what dup2 says of a closed descriptor, and also of a number of ours that is not below
        RLIMIT_NOFILE any more (fs/file.c, `ksys_dup3`), which the program can lower at any time.
        """
        try:
            os.fstat(fd)
        except OSError:
            raise Gone from error
        if error.errno != errno.EBADF:
            raise Gone from error  # it is our own number
        self._lent = Blank(self._blank)  # the lowest that is free
        try:
            os.dup2(fd, self._lent.fileno(), False)
        except OSError:
            raise Gone from error

    def take_back(self) -> None:
        """Ends a loan; for `borrow` only."""
        self._is_lent = False  # first: should dup2 fail, as the program closed our number, the next loan finds out
        os.dup2(self._blank.fileno(), self._lent.fileno(), False)  # not inheritable

    def close(self) -> None:
        """Gives the numbers back."""
        with no_fork:
            self._blank.close()
            self._lent.close()


class _Loan:
    """One connection while it is lent. A plain class: a generator would cost as much as the loan itself."""

    __slots__ = ("_borrower", "_cookie", "_fd")

    def __init__(self, borrower: Borrower, fd: int, cookie: int | None) -> None:
        self._borrower, self._fd, self._cookie = borrower, fd, cookie

    def __enter__(self) -> _socket.socket:
        no_fork.acquire()
        try:
            return self._borrower.lend(self._fd, self._cookie)
        except BaseException:
            no_fork.release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._borrower.take_back()
        finally:
            no_fork.release()
