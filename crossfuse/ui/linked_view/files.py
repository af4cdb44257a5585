"""Arrays that the browser fetches as files, so that what stays the same is sent once.

Streamlit sends a component all of its data again when a part of it has changed. A large array goes
to the browser as the address of a file instead, which is served like a picture of ``st.image`` as
long as the session shows it. The address changes with the content, and the view fetches it again
only then.
"""

from __future__ import annotations

import hashlib

import numpy as np
import streamlit as st
from streamlit import runtime


def address_of(array: np.ndarray, place: str) -> str | None:
    """Path under which this array's bytes are served; None where no server runs.

    ``place``: a name of its own for each array on a page; what it held before is forgotten.
    """
    if not runtime.exists():
        return None
    data = array.tobytes()
    # Streamlit names a large file by parts of its content only, and by all of its name.
    name = hashlib.sha256(data).hexdigest()
    files = runtime.get_instance().media_file_mgr
    path = files.add(data, "application/octet-stream", f"linked view: {place}", file_name=name)
    base = str(st.get_option("server.baseUrlPath")).strip("/")
    return f"/{base}{path}" if base else path
