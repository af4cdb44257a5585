"""Asking the engine from a page: one shared engine, and what a place on a page waits for.

Nothing heavy (torch, models) is imported before the first page is on the screen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from crossfuse.ui.text import current_language, page_texts, t

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from crossfuse.engine import Engine, Job, Request, Result

BLINK = 0.25  # seconds: what takes no longer shows no progress bar
LOOK = 0.1  # seconds between two looks at a running job


@st.cache_resource(show_spinner=False)
def get_engine() -> Engine:
    """The one engine of this process, shared by all sessions."""
    from crossfuse.engine import EmbeddedEngine

    return EmbeddedEngine()


class Asking:
    """What one place on a page has asked last, over reruns of the script.

    ``result`` is the last good answer, whatever has happened since.
    """

    def __init__(self) -> None:
        self.job: Job | None = None
        self.result: Result | None = None
        self._answered = ""

    @property
    def fresh(self) -> bool:
        """Whether ``result`` answers what was asked last (after an error it does not)."""
        return self.result is not None and self.job is None

    def answer(self, request: Request, space: DeltaGenerator, key: str) -> Result:
        """The answer to the request; waits for it, with progress in ``space``.

        A rerun of the script with the same request goes on waiting for the same job, and meets
        the same error or cancellation again until :meth:`forget` is called.

        Raises:
            CrossfuseError, Cancelled, PipelineError: as :meth:`crossfuse.engine.Job.result`.
        """
        if self.result is not None and self._answered == request.digest:
            return self.result
        if self.job is None or self.job.request.digest != request.digest:
            # The engine itself replaces what this page asked before.
            self.job = get_engine().submit(request)
        wait(self.job, space, key)
        self.result = self.job.result(0)
        self._answered = request.digest
        self.job = None
        return self.result

    def forget(self) -> None:
        """Ask anew next time, after an error or a cancellation."""
        self.job = None


def asking(place: str) -> Asking:
    """What the place of that name, in this session, has asked last."""
    return st.session_state.setdefault(f"_asking_{place}", Asking())


def wait(job: Job, space: DeltaGenerator, key: str) -> None:
    """Wait until the job is done; a bar and a cancel button appear if it takes longer than a blink.

    Every look draws the bar, which lets Streamlit stop the script when the reader changes
    something; the job goes on until a newer request replaces it.
    """
    if job.wait(BLINK):
        return
    row = space.container(horizontal=True, vertical_alignment="center", key=f"waiting_{key}")
    bar = row.progress(0.0, text=t("shell.starting"))
    row.button(
        t("shell.cancel"), key=f"_cancel_{key}", on_click=job.cancel, icon=":material/close:"
    )
    while not job.wait(LOOK):
        label, fraction = job.progress
        position = job.position
        text = t("shell.queued", position=position) if position else stage_words(label)
        bar.progress(fraction, text=text)
    space.empty()


def stage_key(label: str) -> str:
    """The text key of a stage: ``"reading points"`` is ``stages.reading_points``."""
    return "_".join(label.lower().split())


def stage_words(label: str) -> str:
    """The label of a pipeline's stage in the reader's language, where ``stages.md`` has it."""
    key = stage_key(label)
    return t(f"stages.{key}") if key in page_texts("stages", current_language()) else label
