"""Loading torch and the first model behind the first page, and the badge that tells of it.

The browser says once that it has painted; only then does the work start, so that it delays
nobody's first sight. No timer and no ``st.rerun``: a run that asks itself to run again sets the
page that the session is on, and where this meets a click on the navigation the click is lost.
"""

from __future__ import annotations

import gc
import threading
import time
from typing import TYPE_CHECKING

import streamlit as st

from crossfuse.ui.jobs import get_engine
from crossfuse.ui.text import t

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from crossfuse.engine import WarmUp

LOOK = 0.5  # seconds between two looks at the work; each lets a reader's click end the run
PAINTED = """
// Says once that what came before it has been painted; draws nothing. Not while the reader is
// clicking: the message names the page it came from, and would overtake a change of page.
const stops = new WeakMap();
export default function ({ parentElement, setTriggerValue }) {
  if (stops.has(parentElement)) return stops.get(parentElement);
  let timer;
  const tellIn = (wait) => {
    clearTimeout(timer);
    timer = setTimeout(() => { stop(); setTriggerValue("painted", true); }, wait);
  };
  const busy = () => tellIn(3000);
  const stop = () => {
    clearTimeout(timer);
    for (const name of ["pointerdown", "keydown"]) removeEventListener(name, busy, true);
  };
  for (const name of ["pointerdown", "keydown"]) addEventListener(name, busy, true);
  requestAnimationFrame(() => tellIn(400));
  stops.set(parentElement, stop);
  return stop;
}
"""


class WarmStart:
    """The warm-up of this process's engine, which starts when it is first asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.state: WarmUp | None = None

    @property
    def done(self) -> bool:
        return self.state is not None and self.state.done

    def start(self) -> WarmUp:
        """Load torch and the first model behind the page; call it once something is painted."""
        with self._lock:
            if self.state is None:
                self.state = get_engine().warm_up("feature_map")
                threading.Thread(target=_set_apart, args=(self.state,), daemon=True).start()
            return self.state


def _set_apart(work: WarmUp) -> None:
    """Keep what is loaded by then, which stays, out of the garbage collections to come.

    Streamlit collects after each run of a script and holds the interpreter meanwhile. With torch's
    200,000 objects to walk through, each answer would wait a fifth of a second to be sent.
    """
    work.wait()
    gc.collect()
    gc.freeze()


@st.cache_resource(show_spinner=False)
def warm_start() -> WarmStart:
    """The one warm-up of this process."""
    return WarmStart()


def draw_badge(place: DeltaGenerator) -> None:
    """Where models run, as far as it is known."""
    work = warm_start().state
    if work is not None and work.error is not None:
        place.badge(t("shell.device_failed"), color="red", help=str(work.error))
    elif work is None or work.device is None:
        place.badge(t("shell.device_waking"), icon=":material/hourglass_empty:", color="gray")
    else:
        icon = ":material/memory:"
        place.badge(work.device, icon=icon, color="green", help=t("shell.device_help"))


def warm_up_behind(badge: DeltaGenerator) -> None:
    """Draw it last on a page: starts the warm-up once that is painted, and keeps the badge true."""
    if not warm_start().done:
        st.fragment(_when_painted)(badge)


def _when_painted(badge: DeltaGenerator) -> None:
    draw_badge(badge)  # also with the page: that reserves the place outside this fragment
    mount = st.components.v2.component("crossfuse_painted", js=PAINTED)
    if not mount(key="_painted", on_painted_change=lambda: None).painted:
        return
    start = warm_start()
    start.start()
    while not start.done:
        draw_badge(badge)
        time.sleep(LOOK)
    draw_badge(badge)
