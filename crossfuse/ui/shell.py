"""What every page shares: header, uploads, running a request, errors, notes, exports."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import sys
import unicodedata
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from crossfuse.errors import CrossfuseError
from crossfuse.ui.jobs import asking
from crossfuse.ui.navigation import build_navigation
from crossfuse.ui.state import choose, keep_link
from crossfuse.ui.text import LANGUAGES, browser_language, notice_words, t
from crossfuse.ui.warm_up import draw_badge

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator
    from streamlit.runtime.uploaded_file_manager import UploadedFile

    from crossfuse.engine import Request, Result
    from crossfuse.trace import Trace

ASSETS = Path(__file__).resolve().parents[2] / "assets"
LOG = logging.getLogger("crossfuse.ui")
# Markdown in ASCII: for other letters Streamlit loads its catalogue of emojis, which the first
# visitor would wait for. The second is 中文.
LANGUAGE_LABELS = {"en": "EN", "zh": "&#20013;&#25991;"}
LOGO_LAST = "_logo_last"
FRAMED = "_framed"  # set once the entry script has run in this session


# ---------------------------------------------------------------- frame of the app


def style() -> None:
    """Page settings, logo and the few rules of style that the theme cannot say."""
    st.session_state[FRAMED] = True
    st.set_page_config(page_title="crossfuse", layout="wide")
    st.html(ASSETS / "styles" / "app.css")
    # Streamlit imports NumPy to show a picture. Where that is still to be done, the words of the
    # page come first and the logo last.
    st.session_state[LOGO_LAST] = "numpy" not in sys.modules
    if not st.session_state[LOGO_LAST]:
        logo()


def logo() -> None:
    """The logo in the header bar and in the tab of the browser."""
    st.set_page_config(page_icon=str(ASSETS / "logo_icon.svg"))
    st.logo(str(ASSETS / "logo.svg"), size="large")


def top_bar() -> DeltaGenerator:
    """Language switch and device badge, in the header bar of every page; returns the badge's place
    for :func:`crossfuse.ui.warm_up.warm_up_behind`."""
    with st.container(key="topbar", horizontal=True):
        place = st.container(key="device", width="content").empty()
        draw_badge(place)
        choose(
            t("shell.language"),
            list(LANGUAGES),
            key="lang",
            format_func=LANGUAGE_LABELS.__getitem__,
            default=browser_language(),
            label_visibility="collapsed",
        )
    return place


def page_header(name: str) -> None:
    """Title and the one idea of a page: the texts ``<name>.heading`` and ``<name>.idea``.

    Call it first. Until some session has declared a navigation, a server takes the folder
    ``pages/`` for its old automatic pages: a link to a page then runs that page without the
    entry script. Here the navigation is declared after all and the script run again.
    """
    if FRAMED not in st.session_state:
        st.session_state[FRAMED] = True
        keep_link(name)
        build_navigation()
        st.rerun()
    st.title(t(f"{name}.heading"), anchor=False)
    st.markdown(t(f"{name}.idea"))


# ---------------------------------------------------------------- errors and notes


def show_error(error: CrossfuseError) -> None:
    """Show one of our errors in the language of the reader: no traceback, no Markdown."""
    with st.container(border=True):
        st.markdown(f":red[:material/error:] **{t('shell.error')}**")
        st.text(notice_words(error.notice))


def run_page(run: Callable[[], None]) -> None:
    """Run a page. Our own errors become a sentence; others are logged and told in one.

    The unexpected ones are raised again, so that Streamlit logs the traceback (which
    ``client.showErrorDetails`` keeps off the page) and tests see it.
    """
    try:
        run()
    except CrossfuseError as error:
        show_error(error)
    except Exception:
        with st.container(border=True, key="unexpected"):
            st.markdown(f":red[:material/error:] **{t('shell.unexpected')}**")
        raise
    finally:
        if st.session_state.get(LOGO_LAST):
            logo()


def notes(sentences: Sequence[str]) -> None:
    """What was resized, cut or assumed, as small print."""
    if sentences:
        with st.container(gap=None):
            for sentence in sentences:
                st.caption(escape_markdown(notice_words(sentence)))


def escape_markdown(words: str) -> str:
    """Text that Markdown shows letter by letter (user data, file names, class names)."""
    return "".join(f"\\{sign}" if sign in r"\`*_{}[]()#+-.!|<>$:~" else sign for sign in words)


# ---------------------------------------------------------------- uploads


@dataclass(frozen=True)
class Upload:
    """One uploaded file: its bytes, their digest, and its name made safe for showing only.

    ``file_id``: Streamlit's name of this one upload.
    """

    data: bytes
    digest: str
    name: str
    file_id: str = ""

    @property
    def suffix(self) -> str:
        """Lower-case ending of the name, to tell kinds apart; never part of a path."""
        return self.name.rpartition(".")[2].lower() if "." in self.name else ""


def display_name(name: str) -> str:
    """A file name for showing: last part, no control or direction signs, at most 60 letters."""
    last = name.replace("\\", "/").rpartition("/")[2]
    kept = "".join(sign for sign in last if unicodedata.category(sign)[0] != "C").strip()
    return kept if len(kept) <= 60 else f"{kept[:40]}…{kept[-18:]}"


def upload_files(
    label: str,
    *,
    key: str,
    types: Sequence[str],
    limit_mb: int,
    several: bool = False,
    help: str | None = None,
) -> tuple[Upload, ...]:
    """Uploaded files, kept while the reader visits other pages, until removed.

    ``types`` are endings such as ``"png"`` (a convenience of the file dialog; readers judge by
    content). A file over ``limit_mb`` is refused with a sentence and left out.
    """
    store = f"_uploads_{key}"
    widget = f"_{key}"

    def forget_removed() -> None:  # not called when the widget is only drawn anew
        if not st.session_state.get(widget):
            st.session_state.pop(store, None)

    given = st.file_uploader(
        label,
        type=list(types),
        accept_multiple_files=several,
        key=widget,
        help=help,
        max_upload_size=limit_mb,
        on_change=forget_removed,
    )
    files = given if isinstance(given, list) else [given] if given is not None else []
    if files:
        before = {
            item.file_id: item for item in st.session_state.get(store, ()) if item is not None
        }
        st.session_state[store] = tuple(
            before.get(file.file_id) or _take(file, limit_mb) for file in files
        )
    held = tuple(item for item in st.session_state.get(store, ()) if item is not None)
    if held and not files:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.text(", ".join(item.name for item in held))
            st.button(
                t("shell.remove"),
                key=f"_remove_{key}",
                type="tertiary",
                icon=":material/close:",
                on_click=lambda: st.session_state.pop(store, None),
            )
    return held


def _take(file: UploadedFile, limit_mb: int) -> Upload | None:
    data, name = bytes(file.getbuffer()), display_name(file.name)
    if len(data) > limit_mb << 20:
        show_error(CrossfuseError(t("shell.too_large", name=name, limit=limit_mb)))
        return None
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    return Upload(data, digest, name, file.file_id)


# ---------------------------------------------------------------- running a request


def user_id() -> str:
    """A random name of this session, so that the engine can take fair turns."""
    return st.session_state.setdefault("_user", uuid.uuid4().hex)


def run_job(request: Request, *, slot: str | None = None) -> Result | None:
    """Ask the engine, show progress, return the answer.

    The answer of an unchanged request is kept for the session. On failure the reason is shown and
    the last good answer of the same ``slot`` (default: the page of the request) is returned, or
    None if there was none. A changed request replaces one that still runs: latest wins. Two
    requests of one page need different ``page`` values (``"primer/photos"``) to live side by side.
    """
    from crossfuse.engine import Cancelled, PipelineError

    place = slot or request.page or request.model
    # Only a request of the same session and place may be replaced by this one.
    request = replace(request, user=user_id(), page=request.page or place)
    held = asking(place)
    try:
        return held.answer(request, st.empty(), place)
    except CrossfuseError as error:
        show_error(error)
    except Cancelled:
        st.caption(f":material/cancel: {t('shell.cancelled')}")
    except PipelineError:  # the engine has logged its traceback
        with st.container(border=True, key=f"fault_{place}"):
            st.markdown(f":red[:material/error:] **{t('shell.unexpected')}**")
    st.button(
        t("shell.again"), key=f"_again_{place}", on_click=held.forget, icon=":material/refresh:"
    )
    return held.result


# ---------------------------------------------------------------- exports


def downloads(
    files: Mapping[str, tuple[str, str, Callable[[], bytes]]], *, key: str, label: str | None = None
) -> None:
    """A row of download buttons: ``{button label: (file name, mime type, make bytes)}``.

    The bytes are made when the button is pressed, not before.
    """
    with st.container(horizontal=True, vertical_alignment="center", key=f"downloads_{key}"):
        st.caption(label or t("shell.take_away"), width="content")
        for caption, (name, mime, make) in files.items():
            st.download_button(
                caption,
                data=make,
                file_name=name,
                mime=mime,
                key=f"_download_{key}_{name}",
                on_click="ignore",
                type="tertiary",
                icon=":material/download:",
            )


def trace_downloads(trace: Trace, name: str) -> None:
    """Buttons for the whole trace; ``name``: of the files, without ending."""
    downloads(trace_files(trace, name), key=name)


def trace_files(trace: Trace, name: str) -> dict[str, tuple[str, str, Callable[[], bytes]]]:
    """The whole trace for :func:`downloads`: NPZ with every map, CSV with one line a weight."""

    def npz() -> bytes:
        buffer = io.BytesIO()
        trace.save(buffer)
        return buffer.getvalue()

    return {
        "NPZ": (f"{name}.npz", "application/octet-stream", npz),
        "CSV": (f"{name}.csv", "text/csv", lambda: weights_csv(trace)),
    }


def weights_csv(trace: Trace) -> bytes:
    """Head mean of every map as CSV (UTF-8 with a mark, so that spreadsheets see Chinese)."""
    buffer = io.StringIO()
    table = csv.writer(buffer)
    table.writerow(["map", "query", "key", "query_label", "key_label", "weight"])
    for entry in trace.maps:
        asks = trace.geometries[entry.query].labels
        asked = trace.geometries[entry.key].labels
        items = range(len(asks)) if entry.rows is None else entry.rows.tolist()
        mean = entry.weights.astype("float32").mean(axis=0)
        for row, item in enumerate(items):
            for column, weight in enumerate(mean[row].tolist()):
                table.writerow(
                    [entry.id, item, column, _inert(asks[item]), _inert(asked[column]),
                     f"{weight:.6g}"]
                )  # fmt: skip
    return buffer.getvalue().encode("utf-8-sig")


def _inert(label: str) -> str:
    """A label that no spreadsheet takes for a formula."""
    return f"'{label}" if label[:1] in ("=", "+", "-", "@", "\t", "\r") else label
