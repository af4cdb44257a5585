"""The models by name. Nothing here imports torch until a model is asked for."""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossfuse import weights as weights_module
from crossfuse.errors import CrossfuseError

if TYPE_CHECKING:
    from types import ModuleType

    from torch import nn


@dataclass(frozen=True)
class ModelEntry:
    """Where the parts of one model are.

    ``module``: "package.module:Class". ``pipeline``: the module that turns a request into a result
    (``run``, ``add_arguments``, ``request_from_arguments``). ``recipe``: the module with ``train``
    and ``evaluate``. ``weights``: names under assets/weights, the default first.
    """

    name: str
    title: str
    paper: str
    module: str
    pipeline: str
    recipe: str | None = None
    weights: tuple[str, ...] = ()

    def model_class(self) -> type[nn.Module]:
        module, _, name = self.module.partition(":")
        found: type[nn.Module] = getattr(import_module(module), name)
        return found

    def pipeline_module(self) -> ModuleType:
        return import_module(self.pipeline)

    def recipe_module(self) -> ModuleType:
        if self.recipe is None:
            raise CrossfuseError(
                "The model {name!r} has nothing to train or evaluate.", name=self.name
            )
        return import_module(self.recipe)


MODELS: dict[str, ModelEntry] = {
    entry.name: entry
    for entry in (
        ModelEntry(
            name="mmvit",
            title="Multiscale multiview vision transformer",
            paper="Liu et al., Multiscale Multiview Vision Transformers, arXiv 2305.00104",
            module="crossfuse.models.mmvit:MMViT",
            pipeline="crossfuse.pipelines.mmvit",
            recipe="crossfuse.training.mmvit",
            weights=("mmvit_tiny200", "mmvit_imagenette", "mmvit_imagenette_scratch"),
        ),
        ModelEntry(
            name="mmvit_sound",
            title="Multiscale multiview vision transformer on spectrograms",
            paper="Liu et al., Multiscale Multiview Vision Transformers, arXiv 2305.00104",
            module="crossfuse.models.mmvit:MMViT",
            pipeline="crossfuse.pipelines.mmvit_sound",
            recipe="crossfuse.training.mmvit_sound",
            weights=("mmvit_sound",),
        ),
        ModelEntry(
            name="feature_map",
            title="Cross-attention over 2-D feature maps",
            paper="building block; Wang et al., Non-local Neural Networks, arXiv 1711.07971",
            module="crossfuse.models.feature_map:FeatureMapAttention",
            pipeline="crossfuse.pipelines.feature_map",
            recipe="crossfuse.training.feature_map",
            weights=("feature_map", "feature_map_8", "feature_map_32"),
        ),
        ModelEntry(
            name="mca_eeg",
            title="Mutual cross-attention of EEG features",
            paper="MCA; Zhao & Gu, MICCAI 2024, arXiv 2406.14014",
            module="crossfuse.models.mca_eeg:MCAEEG",
            pipeline="crossfuse.pipelines.mca_eeg",
            recipe="crossfuse.training.mca_eeg",
            weights=("mca_eeg",),
        ),
        ModelEntry(
            name="mmca",
            title="MMCA: words and image regions",
            paper="Wei et al., CVPR 2020, doi 10.1109/CVPR42600.2020.01095",
            module="crossfuse.models.mmca:MMCA",
            pipeline="crossfuse.pipelines.mmca",
            recipe="crossfuse.training.mmca",
            weights=("mmca",),
        ),
        ModelEntry(
            name="mit",
            title="Point clouds and photographs: 2D-3D interlaced transformer",
            paper="Yang et al., ICCV 2023, arXiv 2310.12817",
            module="crossfuse.models.mit:MIT",
            pipeline="crossfuse.pipelines.mit",
            recipe="crossfuse.training.mit",
            weights=("mit",),
        ),
    )
}


def entry(name: str) -> ModelEntry:
    """The entry of that name.

    Raises:
        CrossfuseError: no such model.
    """
    if name not in MODELS:
        raise CrossfuseError(
            "There is no model {name!r}; there are {models}.", name=name, models=", ".join(MODELS)
        )
    return MODELS[name]


def config_from_dict(model_class: type[nn.Module], values: dict[str, Any]) -> Any:
    """The model's frozen config from JSON values (lists become tuples).

    Raises:
        CrossfuseError: a field that the config does not have.
    """
    config_class = model_class.Config  # type: ignore[attr-defined]
    known = {field.name for field in fields(config_class)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise CrossfuseError(
            "{name} has no field {unknown}; the card is of another release.",
            name=config_class.__name__,
            unknown=", ".join(unknown),
        )
    return config_class(**{name: _tuples(value) for name, value in values.items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value


def load(
    name: str, weights: str | None = None, *, folder: Path = weights_module.WEIGHTS
) -> nn.Module:
    """A model with its weights, strictly loaded, in eval mode and without parameter gradients.

    A model without any weights (``weights=()``) is built from its default config.

    Raises:
        CrossfuseError: no such model or weights, or weights of another model.
    """
    found = entry(name)
    model_class = found.model_class()
    if weights is None and not found.weights:
        model = model_class(model_class.Config())  # type: ignore[attr-defined]
    else:
        chosen = weights or found.weights[0]
        state, card = weights_module.load_weights(chosen, folder=folder)
        if card.get("model") != name:
            raise CrossfuseError(
                "The weights {chosen!r} are of {card!r}, not of {name!r}.",
                chosen=chosen,
                card=card.get("model"),
                name=name,
            )
        model = model_class(config_from_dict(model_class, card.get("config", {})))
        try:
            model.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise CrossfuseError(
                "The weights {chosen!r} do not fit {name!r}: {error}",
                chosen=chosen,
                name=name,
                error=error,
            ) from error
    model.eval()
    return model.requires_grad_(False)
