"""Sentences for the reader that can be shown in another language.

The English text is written where it arises and is the key of its translation, as in gettext: code
stays readable, and what nobody has translated yet is shown in English. What a sentence was filled
with travels with it, so that it can be filled again in another language.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Notice(str):
    """English text that remembers its template and what filled it.

    ``Notice("The file is larger than {limit} MB.", limit=20)`` is the plain string "The file is
    larger than 20 MB."; ``template`` and ``fills`` say how it came about. Without fills the
    template is taken as it is, braces included. A fill may be a notice itself, or an error of ours.
    """

    template: str
    fills: Mapping[str, Any]

    def __new__(cls, template: str, /, **fills: Any) -> Notice:
        fills = {name: _said(value) for name, value in fills.items()}
        notice = super().__new__(cls, template.format(**fills) if fills else template)
        notice.template = template
        notice.fills = fills
        return notice

    def translated(self, catalogue: Mapping[str, str]) -> str:
        """The text by a catalogue {English template: template}; English where it has none."""
        template = catalogue.get(self.template)
        if not self.fills:
            return self if template is None else template
        fills = {
            name: value.translated(catalogue) if isinstance(value, Notice) else value
            for name, value in self.fills.items()
        }
        return (self.template if template is None else template).format(**fills)


def _said(fill: Any) -> Any:
    """Of an exception its words only, since its traceback holds the frames it went through."""
    return getattr(fill, "notice", str(fill)) if isinstance(fill, BaseException) else fill
