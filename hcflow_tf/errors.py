"""The one exception that means: the user can mend this."""

from __future__ import annotations


class HCFlowError(Exception):
    """Bad input, named in one line: what is wrong, where, and what to do.

    The commands print its message on stderr and exit with `exit_code`, without a traceback.
    """

    exit_code = 1


class UsageError(HCFlowError):
    """Wrong usage of a command: a bad option, config key or combination."""

    exit_code = 2
