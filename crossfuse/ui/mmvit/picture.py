"""Choosing a picture: a sample, or one of the reader's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import streamlit as st

from crossfuse.data.images import Photo, read_image, sample_photo, sample_photos
from crossfuse.ui.shell import upload_files
from crossfuse.ui.state import choose
from crossfuse.ui.text import t

OWN = "own"


def choose_picture(key: str, first: str | None = None) -> tuple[dict[str, Any], Photo] | None:
    """A sample or an upload: (inputs of the request, the photo); None while nothing is there."""
    samples = sample_photos()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = choose(
            t("mmvit.picture"),
            [*samples, OWN],
            key=key,
            default=first,
            style="pills",
            format_func=lambda n: t("mmvit.own") if n == OWN else t(f"mmvit.sample_{n}"),
        )
    if name != OWN:
        st.caption(f"{samples[name].title}: {samples[name].credit}, {samples[name].licence}")
        return {"sample": name}, sample_photo(name)
    files = upload_files(
        t("mmvit.upload"), key=key, types=("jpg", "jpeg", "png", "webp", "bmp", "tif"), limit_mb=50
    )
    if not files:
        st.info(t("mmvit.upload_hint"))
        return None
    return {"image": files[0].data}, read_image(files[0].data)


def mirrored(photo: Photo) -> Photo:
    """The photo as a mirror shows it."""
    return replace(photo, pixels=photo.pixels[:, ::-1].copy())


def seen_photo(photo: Photo, options: dict[str, Any]) -> Photo:
    """The photo that the maps lie on: mirrored where that was asked."""
    return mirrored(photo) if options["flip"] else photo


def short(name: str) -> str:
    """One of the names of a class: the first, or the second where that says more ("tabby cat")."""
    first, *others = (part.strip() for part in name.split(","))
    return others[0] if others and first in others[0].split() else first
