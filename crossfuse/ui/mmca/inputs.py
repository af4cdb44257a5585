"""What the reader brings: a photograph, a sentence, and a changed word."""

from __future__ import annotations

import hashlib
import re

import streamlit as st

from crossfuse.data.images import Photo, read_image, sample_photo, sample_photos
from crossfuse.data.sample_sentences import SENTENCES, SWAPS
from crossfuse.errors import CrossfuseError
from crossfuse.ui.linked_view import prepare_view
from crossfuse.ui.shell import Upload, show_error, upload_files
from crossfuse.ui.state import choose
from crossfuse.ui.text import t

OWN = "own"
KINDS = ("proposals", "multiscale", "cells")
FILE = "file"  # regions and their features made elsewhere
TYPES = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "gif")
FIRST = "astronaut"


def choose_photo() -> tuple[str, bytes, Photo] | None:
    """(name, file content, photo): a sample, an upload or a shot; None while none is there."""
    samples = sample_photos()
    name = choose(
        t("mmca.photo"),
        [*(key for key in SENTENCES if key in samples), OWN],
        key="photo",
        default=FIRST,
        style="pills",
        format_func=lambda n: t(f"mmca.sample_{n}"),
    )
    if name != OWN:
        sample = samples[name]
        st.caption(f"{sample.title}: {sample.credit}, {sample.licence}")
        return name, sample_bytes(name), _decoded_sample(name)
    return _own_photo()


@st.cache_resource(show_spinner=False)
def _decoded_sample(name: str) -> Photo:
    return sample_photo(name)


@st.cache_resource(show_spinner=False, max_entries=8)
def _decoded(digest: str, _data: bytes) -> Photo:
    """A photograph of a reader, decoded once for all the runs of the page that it stays there."""
    return read_image(_data)


@st.cache_data(show_spinner=False, max_entries=16)
def sample_bytes(name: str) -> bytes:
    """A sample photograph as a file, for requests (which are hashed by content)."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(sample_photo(name).pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def uploads() -> tuple[Upload, ...]:
    """The reader's own photographs, as uploaded on this page."""
    return tuple(st.session_state.get("_uploads_mmca", ()))


def _own_photo() -> tuple[str, bytes, Photo] | None:
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    with left:
        files = upload_files(t("mmca.upload"), key="mmca", types=TYPES, limit_mb=50, several=True)
    with right, st.popover(t("mmca.camera"), icon=":material/photo_camera:"):
        shot = st.camera_input(t("mmca.camera"), label_visibility="collapsed", key="mmca_camera")
    found: list[tuple[str, bytes, Photo]] = []
    if shot is not None:
        data = shot.getvalue()
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        found.append((t("mmca.camera"), data, _decoded(digest, data)))
    for file in files:
        try:
            found.append((file.name, file.data, _decoded(file.digest, file.data)))
        except CrossfuseError as error:
            show_error(CrossfuseError("{name}: {error}", name=file.name, error=error))
    if not found:
        st.info(t("mmca.upload_hint"))
        prepare_view()
        return None
    if len(found) == 1:
        return OWN, *found[0][1:]
    number = st.selectbox(
        t("mmca.which"), range(len(found)), format_func=lambda i: found[i][0], key="mmca_which"
    )
    return OWN, *found[number][1:]


def choose_regions() -> str:
    """Kind of regions: one of ``KINDS``, or ``FILE``."""
    return choose(
        t("mmca.regions"),
        (*KINDS, FILE),
        key="regions",
        format_func=lambda k: t(f"mmca.regions_{k}"),
        help=t("mmca.regions_help"),
    )


def region_file() -> bytes | None:
    """Content of the reader's region file, or None while none is there."""
    files = upload_files(t("mmca.region_file"), key="mmca_regions", types=("npz",), limit_mb=64)
    if not files:
        st.info(t("mmca.region_file_hint"))
        return None
    return files[0].data


def choose_sentence(name: str) -> str:
    """Free text, with suggestions for the samples."""
    key = "text"
    suggestions = SENTENCES.get(name, ())
    if st.session_state.get("_mmca_sentence_of") != name:
        asked = st.query_params.get(key) if "_mmca_sentence_of" not in st.session_state else None
        if suggestions:
            st.session_state[key] = asked or suggestions[0]
        else:
            st.session_state[key] = asked or st.session_state.get(key, "")
        st.session_state["_mmca_sentence_of"] = name
    written = st.text_input(
        t("mmca.sentence"),
        key=key,
        max_chars=4000,
        bind="query-params",
        persist_state="session",
        placeholder=t("mmca.sentence_hint"),
    )
    if suggestions:
        with st.popover(t("mmca.suggestions"), icon=":material/lightbulb:"):
            for number, suggestion in enumerate(suggestions):
                st.button(
                    suggestion,
                    key=f"_suggest_{name}_{number}",
                    type="tertiary",
                    on_click=st.session_state.__setitem__,
                    args=(key, suggestion),
                )
    return written


def variation(name: str, sentence: str) -> str | None:
    """The sentence with one word exchanged, or None while nothing is exchanged."""
    words = re.findall(r"\w+(?:[-'’]\w+)*", sentence)
    if not words:
        return None
    old, new = SWAPS.get(name, ("", ""))
    start = words.index(old) if old in words else min(1, len(words) - 1)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        place = st.selectbox(
            t("mmca.exchange"),
            range(len(words)),
            index=start,
            format_func=lambda i: words[i],
            key=f"_word_{hash(sentence)}",
            width=180,
        )
        replacement = st.text_input(
            t("mmca.exchange_for"),
            value=new if words[place] == old else "",
            key=f"_for_{hash(sentence)}_{place}",
            width=180,
            max_chars=60,
        )
    if not replacement.strip() or replacement.strip() == words[place]:
        return None
    spans = [match.span() for match in re.finditer(r"\w+(?:[-'’]\w+)*", sentence)]
    start_at, end_at = spans[place]
    return sentence[:start_at] + replacement.strip() + sentence[end_at:]
