from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfuse.engine import Request, Result
from crossfuse.engine.messages import content_digest
from crossfuse.geometry import Regions, Tokens
from crossfuse.trace import AttentionMap, Trace

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats(),
    lambda inner: st.lists(inner, max_size=4).map(tuple),
    max_leaves=8,
)


def test_digest_ignores_who_asks_and_the_order_of_names() -> None:
    one = Request("m", {"a": np.arange(6), "b": "x"}, {"k": 3}, user="ann", page="p")
    two = Request("m", {"b": "x", "a": np.arange(6)}, {"k": 3}, user="bob", page="q")
    assert one.digest == two.digest


@pytest.mark.parametrize(
    "other",
    [
        Request("n", {"a": np.arange(6)}, {"k": 3}),
        Request("m", {"a": np.arange(6).reshape(2, 3)}, {"k": 3}),
        Request("m", {"a": np.arange(6, dtype=np.int32)}, {"k": 3}),
        Request("m", {"a": np.arange(6)}, {"k": 3.0}),
        Request("m", {"a": np.arange(6)}, {"k": True}),
        Request("m", {"a": np.arange(6)}, {"j": 3}),
        Request("m", {"b": np.arange(6)}, {"k": 3}),
        Request("m", {"a": np.arange(6).tobytes()}, {"k": 3}),
        Request("m", {}, {"a": np.arange(6), "k": 3}),
    ],
)
def test_digest_tells_contents_apart(other: Request) -> None:
    assert Request("m", {"a": np.arange(6)}, {"k": 3}).digest != other.digest


@given(plain, plain)
def test_equal_digests_mean_equal_values(one: object, two: object) -> None:
    assert content_digest(one) == content_digest(one)
    if content_digest(one) == content_digest(two):
        assert repr(one) == repr(two)


def test_boundaries_between_items_count() -> None:
    assert content_digest(("ab", "c")) != content_digest(("a", "bc"))
    assert content_digest((("a",), "b")) != content_digest(("a", ("b",)))
    assert content_digest("1") != content_digest(1)


def test_a_request_is_not_changed_from_outside() -> None:
    photo = np.zeros((4, 4))
    request = Request("m", {"photo": photo})
    before = request.digest
    photo[:] = 1
    assert request.inputs["photo"].sum() == 0
    assert Request("m", {"photo": request.inputs["photo"]}).digest == before
    with pytest.raises(ValueError, match="read-only"):
        request.inputs["photo"][0, 0] = 5


def test_a_read_only_view_of_a_writeable_array_is_copied() -> None:
    photo = np.zeros(4)
    view = photo.view()
    view.flags.writeable = False
    request = Request("m", {"photo": view})
    photo[:] = 1
    assert request.inputs["photo"].sum() == 0


def test_lists_and_numpy_scalars_become_plain() -> None:
    request = Request("m", options={"heads": [1, np.int64(2)], "ratio": np.float32(0.5)})
    assert request.options == {"heads": (1, 2), "ratio": 0.5}
    assert type(request.options["ratio"]) is float


@pytest.mark.parametrize("value", [object(), {"a": 1}, {1, 2}, np.array([object()]), open])
def test_only_plain_values_enter(value: object) -> None:
    with pytest.raises(TypeError, match="may cross"):
        Request("m", {"x": value})


@pytest.mark.parametrize("value", [object(), {"a": [object()]}, np.array([None])])
def test_only_plain_values_leave(value: object) -> None:
    with pytest.raises(TypeError, match="may cross"):
        Result(outputs={"x": value})


def test_shape_is_what_a_batch_must_share() -> None:
    def shape(size: int, text: str = "a", k: int = 1) -> object:
        return Request("m", {"x": np.zeros(size), "text": text}, {"k": k}).shape

    assert shape(3, "a") == shape(3, "longer")
    assert shape(3) != shape(4)
    assert shape(3, k=1) != shape(3, k=2)


def test_result_counts_its_bytes() -> None:
    result = Result(outputs={"p": np.zeros(100, np.float32), "names": ["ab", "c"]})
    assert result.nbytes == 403


def test_requests_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Request("m").model = "n"  # type: ignore[misc]


def test_importing_the_engine_imports_neither_torch_nor_streamlit() -> None:
    code = "import sys, crossfuse.engine; sys.exit(bool({'torch', 'streamlit'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_trace_counts_too() -> None:
    maps = (AttentionMap("s", 0, "a to b", "a", "b", np.zeros((2, 3, 2), np.float32)),)
    names = {"a": Tokens(("x", "y", "z")), "b": Regions(np.zeros((2, 4)), (8, 8))}
    assert Result(Trace("m", names, maps)).nbytes == 2 * 3 * 2 * 4 + 2 * 4 * 4
