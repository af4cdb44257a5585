"""Joining the view's ES modules into the one script that a Streamlit component may have.

The modules under ``js/`` and ``panels/`` are ordinary ES modules. Each becomes a function that
runs once, in the order of its imports, and returns what it exports. Four modules are made here:
``js/panels.js`` (every file of ``panels/``), ``js/palettes.js`` (the colour maps), ``js/style.js``
(view.css) and ``js/self.js`` (the script's own text, for the page that a reader saves).
"""

from __future__ import annotations

import json
import posixpath
import re
from functools import lru_cache
from pathlib import Path

from crossfuse.viz.colours import palette

HERE = Path(__file__).parent

_IMPORT = re.compile(r'^import\s+(.+?)\s+from\s+"([^"]+)";[ \t]*$', re.MULTILINE | re.DOTALL)
_EXPORT = re.compile(
    r"^export\s+(?:(default)\s+)?((?:async\s+)?function\*?|class|const|let)\s*(\w*)", re.MULTILINE
)
_UNKNOWN = re.compile(r"^(?:export|import)\b.*$", re.MULTILINE)


def _identifier(name: str) -> str:
    return "$" + re.sub(r"\W", "_", name)


def _module(name: str, source: str) -> tuple[str, list[str]]:
    """One module as a constant holding its exports, and the modules that it imports."""
    needs: list[str] = []

    def bring(match: re.Match[str]) -> str:
        wanted, path = match.groups()
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path))
        needs.append(target)
        if wanted.startswith("*"):
            return f"const {wanted.split()[-1]} = {_identifier(target)};"
        if not wanted.startswith("{"):
            raise ValueError(f"{name}: import {{ names }} or * as name, not {wanted!r}")
        return f"const {wanted.replace(' as ', ': ')} = {_identifier(target)};"

    exports: list[str] = []

    def give(match: re.Match[str]) -> str:
        default, word, own = match.groups()
        if not own and not default:
            raise ValueError(f"{name}: an export without a name: {match.group(0)!r}")
        exports.append(f"default: {own or '$default'}" if default else own)
        return f"{word} {own or '$default'}"

    body = _EXPORT.sub(give, _IMPORT.sub(bring, source))
    left = _UNKNOWN.search(body)
    if left:
        raise ValueError(f"{name}: cannot join {left.group(0)!r}")
    wrapped = (
        f"const {_identifier(name)} = (() => {{\n{body}\nreturn {{ {', '.join(exports)} }};\n}})();"
    )
    return wrapped, needs


def join(sources: dict[str, str], entry: str) -> str:
    """Join modules (path -> source) into one module with the default export of ``entry``.

    Raises:
        ValueError: a module that is not there, a circle of imports, or syntax outside the subset
            (named imports; exported functions, classes and constants).
    """
    done: list[str] = []
    parts: list[str] = []

    def add(name: str, path: tuple[str, ...]) -> None:
        if name in done:
            return
        if name in path:
            raise ValueError(f"modules import each other: {' -> '.join((*path, name))}")
        if name not in sources:
            raise ValueError(f"{path[-1] if path else 'entry'} imports {name}, which is absent")
        text, needs = _module(name, sources[name])
        for need in needs:
            add(need, (*path, name))
        done.append(name)
        parts.append(f"// {name}\n{text}")

    add(entry, ())
    return "\n".join(
        [
            "function $bundle() {",
            *parts,
            f"return {_identifier(entry)}.default;",
            "}",
            "export default $bundle();",
            "",
        ]
    )


def _palettes() -> str:
    entries = [
        f'  "{name}-{theme}": "{palette(name, theme).tobytes().hex()}",'
        for name in ("sequential", "diverging")
        for theme in ("light", "dark")
    ]
    return "export const PALETTES = {\n" + "\n".join(entries) + "\n};\n"


def sources() -> dict[str, str]:
    """All modules of the view, the generated ones among them."""
    files = [*sorted((HERE / "js").glob("*.js")), *sorted((HERE / "panels").glob("*.js"))]
    found = {path.relative_to(HERE).as_posix(): path.read_text(encoding="utf-8") for path in files}
    kinds = [path.stem for path in files if path.parent.name == "panels"]
    lines = [f'import * as {kind} from "../panels/{kind}.js";' for kind in kinds]
    found["js/panels.js"] = "\n".join([*lines, f"export const PANELS = {{ {', '.join(kinds)} }};"])
    found["js/palettes.js"] = _palettes()
    style = (HERE / "view.css").read_text(encoding="utf-8")
    found["js/style.js"] = f"export const STYLE = {json.dumps(style)};"
    found["js/self.js"] = "export function source() { return $bundle.toString(); }"
    return found


@lru_cache(maxsize=2)
def _built(_state: tuple[int, ...]) -> str:
    return join(sources(), "js/main.js")


def script() -> str:
    """The component's script; made again only when a module has changed on disk."""
    paths = [*HERE.glob("js/*.js"), *HERE.glob("panels/*.js"), HERE / "view.css"]
    return _built(tuple(sorted(path.stat().st_mtime_ns for path in paths)))
