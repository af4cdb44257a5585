"""Small tables of numbers that the reader edits; kept over page changes and in the URL."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import streamlit as st

from crossfuse.ui.text import current_language


def encode(array: np.ndarray) -> str:
    """A table as a short URL parameter: numbers row by row, joined by ``_``."""
    return "_".join(f"{value:g}" for value in np.ravel(array))


def decode(code: str, shape: tuple[int, int], limit: float) -> np.ndarray | None:
    """The table written by :func:`encode`, clipped to ±limit; None if it is not one."""
    if len(code) > 16 * shape[0] * shape[1]:
        return None
    try:
        values = np.array([float(part) for part in code.split("_")])
    except ValueError:
        return None
    if values.size != shape[0] * shape[1] or not np.isfinite(values).all():
        return None
    return np.clip(values, -limit, limit).reshape(shape)


def editable(
    key: str,
    default: np.ndarray,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    limit: float,
    step: float = 0.1,
    label: str,
) -> np.ndarray:
    """An editable table bound to ``?key=``; an emptied cell counts as 0.

    Args:
        default: (rows, columns) numbers shown until the reader changes one.
        limit: largest magnitude that may be typed.
        label: what the table holds, for screen readers.
    """
    held = f"_table_{key}"
    written = f"_url_{key}"
    asked = st.query_params.get(key)
    if asked is not None and asked != st.session_state.get(written):
        found = decode(asked, default.shape, limit)
        if found is not None:
            st.session_state[held] = found
        st.session_state[written] = asked
    current = st.session_state.get(held, default)

    # The editor keeps its edits against the table it was first given: that table may change only
    # when the widget is new (first visit, return to the page, other language, reset).
    version = st.session_state.get(f"_version_{key}", 0)
    widget = f"_editor_{key}_{version}_{current_language()}"
    if widget not in st.session_state:
        st.session_state[f"_base_{key}"] = current
    base = st.session_state[f"_base_{key}"]
    numbers = st.column_config.NumberColumn(
        min_value=-limit, max_value=limit, step=step, format="%.1f", width=78
    )
    frame = pd.DataFrame(base, index=list(rows), columns=list(columns))
    edited = st.data_editor(
        frame,
        key=widget,
        column_config=dict.fromkeys(columns, numbers),
        width="content",
        alt=label,
    )
    values = np.nan_to_num(edited.to_numpy(dtype=float)).clip(-limit, limit)
    st.session_state[held] = values
    _write(key, None if np.array_equal(values, default) else encode(values))
    return values


def reset(key: str) -> None:
    """Forget the reader's numbers; for use in a callback."""
    st.session_state.pop(f"_table_{key}", None)
    st.session_state[f"_version_{key}"] = st.session_state.get(f"_version_{key}", 0) + 1
    st.session_state[f"_url_{key}"] = st.query_params.get(key)


def _write(key: str, code: str | None) -> None:
    if st.query_params.get(key) == code:
        return
    if code is None:
        del st.query_params[key]
    else:
        st.query_params[key] = code
    st.session_state[f"_url_{key}"] = code
