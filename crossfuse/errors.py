"""The one exception type for everything a user can put right."""

from __future__ import annotations


class CrossfuseError(ValueError):
    """Bad input or a missing prerequisite, told in one sentence.

    ``str(error)`` says what was wrong, where, and what would work; pages and the command line
    show it as it is. Programming errors keep their own exception types.
    """
