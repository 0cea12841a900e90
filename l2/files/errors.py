"""The errors people see. Each carries the exit status that the command line ends with (as in sysexits(3))."""

from __future__ import annotations


class L2Error(Exception):
    """Something failed that the user can act on. The message is one sentence: what, where, what to do."""

    status = 1


class UsageError(L2Error):
    """The command line, or the arguments of a function, contradict one another or what is on disk."""

    status = 2


class BadInput(L2Error):
    """Input data that breaks its contract: says where it was, what was found and what was expected."""

    status = 65

    def __init__(self, where: str, found: str, expected: str) -> None:
        super().__init__(f"{where}: found {found}; expected {expected}")
        self.where, self.found, self.expected = where, found, expected

    def __reduce__(self) -> tuple[type[BadInput], tuple[str, str, str]]:
        """So that it comes back from a worker process as it was raised."""
        return type(self), (self.where, self.found, self.expected)


class Stopped(L2Error):
    """A signal asked to stop; everything is saved and the same command goes on from here."""

    status = 75
