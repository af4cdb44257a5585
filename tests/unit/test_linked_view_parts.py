"""The linked view without a browser: joined modules, packed arrays, texts, colours."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import numpy as np
import pytest

from crossfuse.errors import CrossfuseError
from crossfuse.geometry import ImageGrid, Joined, Words
from crossfuse.trace import AttentionMap
from crossfuse.ui.linked_view import bundle
from crossfuse.ui.linked_view.packing import (
    FILE_BYTES,
    HALF_ABOVE,
    INLINE_BYTES,
    pack_geometries,
    pack_maps,
    payload,
)
from crossfuse.ui.linked_view.panels import Panel, encode_photo
from crossfuse.ui.text import page_texts
from crossfuse.viz.colours import palette, plotly_scale


def test_modules_join_in_the_order_of_their_imports():
    joined = bundle.join(
        {
            "js/main.js": 'import { two as deux } from "./two.js";\n'
            "export default function () { return deux(); }",
            "js/two.js": 'import * as three from "../panels/three.js";\n'
            "export function two() { return three.value; }",
            "panels/three.js": "export const value = 3;",
        },
        "js/main.js",
    )
    places = [joined.index(f"// {name}") for name in ("panels/three.js", "js/two.js", "js/main.js")]
    assert places == sorted(places)
    assert "const { two: deux } = $js_two_js;" in joined
    assert "return $js_main_js.default;" in joined
    assert len(re.findall(r"^export", joined, re.MULTILINE)) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('import { a } from "./absent.js";', "absent"),
        ('import a from "./b.js";', "import { names }"),
        ("export { a };", "cannot join"),
        ('import { a } from "./main.js";\nexport const a = 1;', "import each other"),
    ],
)
def test_what_cannot_be_joined_is_refused(source, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        bundle.join({"js/main.js": source, "js/b.js": ""}, "js/main.js")


def test_every_panel_has_its_module_and_its_dataclass():
    modules = {path.stem for path in (bundle.HERE / "panels").glob("*.js")}

    def kinds(cls: type[Panel]) -> set[str]:
        return {sub.kind for sub in cls.__subclasses__()}.union(*map(kinds, cls.__subclasses__()))

    for path in (bundle.HERE / "panels").glob("*.py"):
        __import__(f"crossfuse.ui.linked_view.panels.{path.stem}")
    assert kinds(Panel) == modules
    assert "export default" in bundle.script()


def test_every_text_of_the_view_exists_and_is_used():
    source = "\n".join(bundle.sources().values())
    python = (bundle.HERE / "print_figures.py").read_text(encoding="utf-8")
    source += python.replace('t("linked_view.', 't("')
    literal = set(re.findall(r'\bt\("([^"]+)"', source)) | set(
        re.findall(r'"((?:readout|unit)_\w+)"', source)
    )
    patterns = [
        re.compile(re.sub(r"\$\{(?:[^{}]|\{[^}]*\})*\}", r"\\w+", key))
        for key in re.findall(r"(?:\bt\(|const key = |texts\[)`([^`]+)`", source)
    ]
    keys = page_texts("linked_view", "en").keys()
    assert literal <= keys, literal - keys
    unused = [k for k in keys - literal if not any(p.fullmatch(k) for p in patterns)]
    assert not unused


def test_geometries_travel_with_their_fields():
    joined = Joined((ImageGrid.regular(2, 3, (30, 20)), Words(("a", "b"))), ("grid", "words"))
    meta, arrays = pack_geometries({"tokens": joined})
    assert meta["tokens"]["count"] == 8
    assert [part["count"] for part in meta["tokens"]["parts"]] == [6, 2]
    assert meta["tokens"]["parts"][0]["shapes"] == {"centres": [6, 2]}
    assert arrays["g/tokens/0.centres"].shape == (12,)


def test_small_maps_travel_exactly_and_large_ones_as_float16():
    weights = np.random.default_rng(0).random((2, 3, 4)).astype(np.float32)
    small = AttentionMap("s", 0, "d", "a", "b", weights)
    meta, arrays = pack_maps([small])
    assert not meta[0]["half"]
    assert np.array_equal(arrays["m/0"].reshape(2, 3, 4), weights)
    large = AttentionMap("s", 1, "d", "a", "b", np.full((1, 1, HALF_ABOVE), 0.3, np.float32))
    meta, arrays = pack_maps([small, large])
    assert meta[0]["half"]
    back = arrays["m/0"].view(np.float16).reshape(2, 3, 4)
    assert np.allclose(back, weights, rtol=5e-4)


def test_held_rows_travel_and_too_much_is_refused():
    rows = AttentionMap("s", 0, "d", "a", "b", np.ones((1, 2, 4)), rows=np.array([7, 3]))
    meta, arrays = pack_maps([rows])
    assert arrays[meta[0]["items"]].tolist() == [7, 3]
    with pytest.raises(CrossfuseError, match="at most"):
        pack_maps([AttentionMap("s", 0, "d", "a", "b", np.zeros((1, 8000, 8000), np.float16))])


def test_photos_are_sent_small():
    photo = np.zeros((1000, 3000, 3), np.uint8)
    assert encode_photo(photo)["image"].dtype == np.uint8
    assert len(encode_photo(photo)["image"]) < 50_000
    assert encode_photo(None) == {}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_sequential_map_is_even_in_lightness(theme):
    rgb = palette("sequential", theme) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lightness = np.cbrt(linear @ [0.2126, 0.7152, 0.0722])
    steps = np.diff(lightness) * (1 if theme == "dark" else -1)
    assert (steps > -0.004).all()
    coarse = np.diff(lightness[::32])
    assert np.abs(coarse).min() > 0.5 * np.abs(coarse).max()
    assert len(plotly_scale("sequential", theme)) == 17


def test_the_diverging_map_is_neutral_in_the_middle():
    for theme in ("light", "dark"):
        middle = palette("diverging", theme)[127].astype(int)
        assert middle.max() - middle.min() < 12


def test_what_stays_the_same_travels_as_files() -> None:
    picture = np.zeros(FILE_BYTES, np.uint8)
    arrays = {"m/0": np.arange(6, dtype=np.float32), "p/0/photo": np.arange(9, dtype=np.uint8)}

    def sent(more: dict[str, np.ndarray], served: bool = True) -> dict[str, Any]:
        text = payload({"id": "x"}, arrays | more, lambda _, name: f"/{name}" if served else None)
        return json.loads(text["text"])

    small = sent({})
    assert small["meta"] == {"id": "x"}
    assert small["files"] == {}
    assert {name: kind for name, (kind, _) in small["inline"].items()} == {
        "m/0": "Float32Array",
        "p/0/photo": "Uint8Array",
    }
    back = np.frombuffer(base64.b64decode(small["inline"]["m/0"][1]), np.float32)
    assert np.array_equal(back, arrays["m/0"])
    middle = np.zeros(FILE_BYTES, np.float32)
    several = sent({"p/0/image": picture, "m/1": middle})
    assert several["files"] == {"p/0/image": ["Uint8Array", "/p/0/image"]}
    assert "m/1" in several["inline"]
    large = sent({"m/1": middle, "m/2": np.zeros(INLINE_BYTES // 4, np.float32)})
    assert set(large["files"]) == {"m/1", "m/2"}
    assert sent({"p/0/image": picture}, served=False)["files"] == {}
