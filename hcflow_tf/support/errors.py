"""The one exception that means: the user can mend this; and how it is shown."""

from __future__ import annotations

import sys

MAX_LINE = 2000
"""Characters of an error that are shown: names inside a damaged file can be as long as the file."""


class HCFlowError(Exception):
    """Bad input, named in one line (several arguments: one line each): what is wrong, where, and what to do.

    The commands print its message on stderr and exit with `exit_code`, without a traceback.
    """

    exit_code = 1

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class UsageError(HCFlowError):
    """Wrong usage of a command: a bad option, config key or combination."""

    exit_code = 2


def one_line(text: object) -> str:
    """The text with line breaks, control characters and undecodable bytes, as file names may hold them, as escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text))


def complain(program: str, error: object) -> None:
    """Prints an error on stderr, the program's name in front; an `HCFlowError` of several lines as several."""
    for line in error.args if isinstance(error, HCFlowError) else (error,):
        text = one_line(line)
        print(f"{program}: {text if len(text) <= MAX_LINE else text[:MAX_LINE] + ' ...'}", file=sys.stderr)
