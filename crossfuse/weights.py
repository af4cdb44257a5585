"""Weights on disk: safetensors beside a JSON card that carries their checksum.

``assets/weights/<name>/weights.safetensors`` and ``assets/weights/<name>/card.json``. A card has at
least ``model`` (registry name), ``config`` (the fields of the model's config), ``sha256`` and
``parameters``; training adds data, licence, recipe, seed, metrics and the command that made them.
``borrowed`` ({prefix: lender}) names tensors that lie elsewhere: a frozen stem is not stored but
read from the package that it comes in (:data:`PACKAGES`), or from other weights, by their name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossfuse.errors import CrossfuseError

if TYPE_CHECKING:
    from torch import Tensor, nn

ASSETS = Path(__file__).resolve().parent.parent / "assets"
WEIGHTS = ASSETS / "weights"


def _front() -> dict[str, Tensor]:
    from crossfuse.encoders.image import published_state
    from crossfuse.models.frozen_front import front_state

    return front_state(published_state("lite2"))


PACKAGES: dict[str, Callable[[], dict[str, Tensor]]] = {"efficientnet-lite2": _front}


def names(folder: Path = WEIGHTS) -> tuple[str, ...]:
    """The names of all weights that are there, sorted."""
    return tuple(sorted(path.parent.name for path in folder.glob("*/card.json")))


def card(name: str, folder: Path = WEIGHTS) -> dict[str, Any]:
    """The card of some weights.

    Raises:
        CrossfuseError: there are none of that name, or the card is not readable JSON.
    """
    path = folder / name / "card.json"
    if name not in names(folder):
        have = ", ".join(names(folder)) or "none"
        raise CrossfuseError(
            "There are no weights called {name!r} in {folder}; there are: {have}.",
            name=name,
            folder=folder,
            have=have,
        )
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CrossfuseError(
            "The card {path} is not readable JSON: {error}.", path=path, error=error
        ) from error
    assert isinstance(document, dict)
    return document


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_weights(
    name: str,
    state: Mapping[str, Tensor] | nn.Module,
    card: Mapping[str, Any],
    *,
    folder: Path = WEIGHTS,
    half: bool = False,
) -> Path:
    """Write weights and card; ``half`` stores floating tensors as float16. Returns the folder."""
    from safetensors.torch import save_file
    from torch import nn

    state = state.state_dict() if isinstance(state, nn.Module) else state
    tensors = {
        key: (value.half() if half and value.is_floating_point() else value)
        .detach()
        .cpu()
        .contiguous()
        for key, value in state.items()
    }
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    file = target / "weights.safetensors"
    save_file(tensors, file)
    document = dict(card) | {
        "sha256": checksum(file),
        "parameters": sum(value.numel() for value in tensors.values()),
        "bytes": file.stat().st_size,
    }
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    (target / "card.json").write_text(text, encoding="utf-8")
    return target


def load_weights(name: str, *, folder: Path = WEIGHTS) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State (floating tensors in float32) and card; the file must match the card's checksum.

    Raises:
        CrossfuseError: weights of that name are absent, damaged, or not those of the card.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    found = card(name, folder)
    file = folder / name / "weights.safetensors"
    if not file.exists():
        raise CrossfuseError(
            "{file} is missing; fetch it again with the project (git checkout).", file=file
        )
    if checksum(file) != found.get("sha256"):
        raise CrossfuseError(
            "{file} does not match the checksum of its card: it is damaged or was "
            "replaced. Restore both from the project.",
            file=file,
        )
    try:
        state = load_file(file)
    except SafetensorError as error:
        raise CrossfuseError(
            "{file} is not a readable safetensors file: {error}.", file=file, error=error
        ) from error
    for prefix, lender in found.get("borrowed", {}).items():
        if lender in PACKAGES:
            state |= {f"{prefix}{name}": value for name, value in PACKAGES[lender]().items()}
        else:
            lent, _ = load_weights(lender, folder=folder)
            state |= {name: value for name, value in lent.items() if name.startswith(prefix)}
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}, found
