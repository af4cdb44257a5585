"""Settings shared by all tests."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator

import pytest

# Tests run in parallel processes: one computing thread each, so that they do not wait for one
# another. Set before torch is imported anywhere.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

if importlib.util.find_spec("hypothesis"):  # the tests of the GPU do without
    import hypothesis

    hypothesis.settings.register_profile("project", deadline=None, derandomize=True)
    hypothesis.settings.load_profile("project")


@pytest.fixture(autouse=True, scope="module")
def _own_main() -> Iterator[None]:
    """Streamlit leaves the page that it ran as ``__main__``; a new process would run it again."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main
