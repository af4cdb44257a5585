"""The answer to the page's first question, computed beforehand: nothing is waited for.

``assets/samples/eeg_first.npz`` holds what the pipeline answers for the simulated recording and
the settings that the page starts with; ``python -m crossfuse.ui.eeg.first_view`` makes it again,
and a test compares it with a fresh answer.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from crossfuse.engine.messages import Request, Result
from crossfuse.notices import Notice
from crossfuse.trace import load as load_trace
from crossfuse.weights import ASSETS

FILE = ASSETS / "samples" / "eeg_first.npz"
PLAIN = {
    "reference": "as recorded",
    "normalise": "baseline",
    "scope": "window",
    "channels": "classifier",
    "interpolate": True,
    "bad": (),
}


def fits(request: Request) -> bool:
    """Whether the stored answer is the answer to this request."""
    asks = dict(request.inputs) == {"sample": "simulated"} and dict(request.options) == PLAIN
    return asks and FILE.is_file()


@lru_cache(maxsize=1)
def load() -> Result:
    """The stored answer; shared, its arrays are read-only."""
    with np.load(FILE, allow_pickle=False) as stored:
        trace = load_trace(io.BytesIO(stored["trace"].tobytes()))
        plain = json.loads(str(stored["plain"]))
        arrays = {
            name.removeprefix("out/"): stored[name]
            for name in stored.files
            if name.startswith("out/")
        }
    outputs = {name: _tuples(value) for name, value in plain["outputs"].items()} | arrays
    result = Result(trace, outputs, tuple(Notice(note) for note in plain["notes"]))
    result.seal()
    return result


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value


def store(result: Result) -> bytes:
    """The file's bytes: the maps in half precision, arrays and plain values beside them."""
    assert result.trace is not None
    maps = tuple(
        replace(entry, weights=entry.weights.astype(np.float16)) for entry in result.trace.maps
    )
    arrays: dict[str, Any] = {k: v for k, v in result.outputs.items() if isinstance(v, np.ndarray)}
    plain: Mapping[str, Any] = {
        "outputs": {k: v for k, v in result.outputs.items() if k not in arrays},
        "notes": list(result.notes),
    }
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        trace=np.frombuffer(replace(result.trace, maps=maps).to_bytes(), np.uint8),
        plain=np.array(json.dumps(plain)),
        **{f"out/{name}": values for name, values in arrays.items()},
    )
    return stream.getvalue()


def compute() -> Result:
    """The answer, asked afresh."""
    from crossfuse.engine.context import Context
    from crossfuse.pipelines import mca_eeg

    with Context(device="cpu") as context:
        return mca_eeg.run(Request("mca_eeg", {"sample": "simulated"}, PLAIN), context)


if __name__ == "__main__":
    FILE.write_bytes(store(compute()))
    print(f"wrote {FILE} ({FILE.stat().st_size / 1e6:.2f} MB)")
