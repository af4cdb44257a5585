"""The one exception type for everything a user can put right."""

from __future__ import annotations

from typing import Any

from crossfuse.notices import Notice


class CrossfuseError(ValueError):
    """Bad input or a missing prerequisite, told in one sentence.

    ``CrossfuseError("The file is larger than {limit} MB.", limit=20)``: ``str(error)`` says in
    English what was wrong, where, and what would work; the command line shows it as it is, and
    pages show ``notice`` in the language of the reader. Programming errors keep their own
    exception types.
    """

    def __init__(self, template: str, /, **fills: Any) -> None:
        ready = isinstance(template, Notice) and not fills
        self.notice = template if ready else Notice(template, **fills)
        super().__init__(self.notice)
