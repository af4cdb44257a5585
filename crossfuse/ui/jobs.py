"""Background work of the app: the warm-up behind the first paint, and the shared engine.

Nothing heavy (torch, models) is imported before the first page is on the screen; a daemon thread
does it afterwards. The thread makes no Streamlit call.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import streamlit as st

if TYPE_CHECKING:
    from crossfuse.engine import Engine


@st.cache_resource(show_spinner=False)
def get_engine() -> Engine:
    """The one engine of this process, shared by all sessions."""
    from crossfuse.engine import Engine

    return Engine()


class WarmUp:
    """Imports torch behind the first paint.

    ``device`` is None while it runs, then the name of the device; ``error`` holds what went wrong.
    """

    def __init__(self) -> None:
        self.device: str | None = None
        self.error: Exception | None = None
        threading.Thread(target=self._run, name="warm-up", daemon=True).start()

    @property
    def done(self) -> bool:
        return self.device is not None or self.error is not None

    def _run(self) -> None:
        try:
            self.device = _device_name()
        except Exception as error:  # shown by the badge; a thread has nobody else to tell
            self.error = error


def _device_name() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    torch.zeros(8, 8) @ torch.zeros(8, 8)
    return f"CPU × {torch.get_num_threads()}"


@st.cache_resource(show_spinner=False)
def warm_up() -> WarmUp:
    """Start the warm-up once per process."""
    return WarmUp()
