"""``crossfuse doctor | models | explain | train | evaluate | data | bench | serve``."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from crossfuse import __version__, registry, weights
from crossfuse.errors import CrossfuseError

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
DATA_SETS: dict[str, str] = {"rooms": "crossfuse.data.rooms.command"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it went well, 1 with one sentence on standard error if not."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except CrossfuseError as error:
        print(f"crossfuse: {error}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="crossfuse", description="See how modalities attend to each other."
    )
    parser.add_argument("--version", action="version", version=f"crossfuse {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    doctor = commands.add_parser(
        "doctor", help="device, versions, system libraries, one forward pass of every model"
    )
    doctor.add_argument("--json", action="store_true", help="print the report as JSON")
    doctor.set_defaults(run=_doctor)

    models = commands.add_parser("models", help="the registered models with their cards")
    models.add_argument("--json", action="store_true", help="print them as JSON")
    models.set_defaults(run=_models)

    serve = commands.add_parser("serve", help="the app, on this machine only unless told otherwise")
    serve.add_argument("--port", type=int, default=8501)
    serve.add_argument("--address", default="127.0.0.1", help="0.0.0.0 lets others reach it")
    serve.set_defaults(run=_serve)

    for name, run, what, choices in (
        ("explain", _explain, "write the trace of one forward pass", tuple(registry.MODELS)),
        ("train", _train, "train a model", _trainable()),
        ("evaluate", _evaluate, "measure a model", _trainable()),
        ("data", _data, "make a data set", tuple(DATA_SETS)),
        ("bench", _bench, "measure speed and memory side by side with peers", _benchmarks()),
    ):
        command = commands.add_parser(name, help=what, description=what)
        command.add_argument("name", choices=choices, help=f"one of: {', '.join(choices)}")
        # What follows the name belongs to that model alone: its parser is built only then, so
        # that nothing else is imported.
        command.add_argument("rest", nargs=argparse.REMAINDER, help="options; try --help")
        command.set_defaults(run=run)
    return parser


def _trainable() -> tuple[str, ...]:
    return tuple(name for name, entry in registry.MODELS.items() if entry.recipe)


def _benchmarks() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in BENCHMARKS.glob("[a-z]*.py")))


def _sub(command: str, arguments: argparse.Namespace) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"crossfuse {command} {arguments.name}")


def _doctor(arguments: argparse.Namespace) -> int:
    from crossfuse import doctor

    report = doctor.examine()
    print(json.dumps(report, indent=2) if arguments.json else doctor.as_text(report))
    return 0 if report["healthy"] else 1


def _models(arguments: argparse.Namespace) -> int:
    listed = [
        {
            "name": entry.name,
            "title": entry.title,
            "paper": entry.paper,
            "weights": {
                name: weights.card(name) for name in entry.weights if name in weights.names()
            },
        }
        for entry in registry.MODELS.values()
    ]
    if arguments.json:
        print(json.dumps(listed, indent=2, ensure_ascii=False))
        return 0
    for model in listed:
        print(f"{model['name']}: {model['title']} ({model['paper']})")
        for name, card in model["weights"].items():  # type: ignore[attr-defined]
            print(f"    {name}: {card['parameters']:,} parameters, {card.get('data', '')}")
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    app = BENCHMARKS.parent / "app.py"
    if not app.is_file():
        raise CrossfuseError(
            "The app lies beside the package in the project's folder; {app} is missing. Install "
            "from a checkout (make env).",
            app=app,
        )
    place = [f"--server.port={arguments.port}", f"--server.address={arguments.address}"]
    command = [sys.executable, "-m", "streamlit", "run", str(app), *place]
    return subprocess.run(command, cwd=app.parent).returncode  # its .streamlit/config.toml


def _explain(arguments: argparse.Namespace) -> int:
    from crossfuse.engine.context import Context

    pipeline = registry.entry(arguments.name).pipeline_module()
    parser = _sub("explain", arguments)
    pipeline.add_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="the trace to write (.npz)")
    options = parser.parse_args(arguments.rest)
    with Context() as context:
        result = pipeline.run(pipeline.request_from_arguments(options), context)
    if result.trace is None:
        raise CrossfuseError(f"The model {arguments.name!r} gave no maps for this input.")
    result.trace.save(options.out)
    for note in result.notes:
        print(f"note: {note}")
    for entry in result.trace:
        heads, rows, columns = entry.weights.shape
        print(f"{entry.id}: {entry.query} -> {entry.key}, {heads} x {rows} x {columns}")
    print(f"written: {options.out}")
    return 0


def _train(arguments: argparse.Namespace) -> int:
    recipe = registry.entry(arguments.name).recipe_module()
    parser = _sub("train", arguments)
    recipe.add_train_arguments(parser)
    recipe.train(parser.parse_args(arguments.rest))
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    recipe = registry.entry(arguments.name).recipe_module()
    parser = _sub("evaluate", arguments)
    recipe.add_evaluate_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args(arguments.rest)
    figures = recipe.evaluate(options)
    _print_figures(figures, as_json=options.json)
    return 0


def _data(arguments: argparse.Namespace) -> int:
    module = import_module(DATA_SETS[arguments.name])
    parser = _sub("data", arguments)
    module.add_arguments(parser)
    module.make(parser.parse_args(arguments.rest))
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    module = _benchmark(arguments.name)
    parser = _sub("bench", arguments)
    module.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = parser.parse_args(arguments.rest)
    rows = module.measure(options)
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        _print_table(rows)
    return 0


def _benchmark(name: str) -> ModuleType:
    # They lie beside the package, not in it, and import one another.
    if str(BENCHMARKS.parent) not in sys.path:
        sys.path.append(str(BENCHMARKS.parent))
    return import_module(f"benchmarks.{name}")


def _print_figures(figures: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(figures, indent=2, ensure_ascii=False))
        return
    for name, value in _flat(figures):
        print(f"{name:<48} {value:.4g}" if isinstance(value, float) else f"{name:<48} {value}")


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        full = f"{prefix}{name}"
        rows += _flat(value, f"{full}.") if isinstance(value, Mapping) else [(full, value)]
    return rows


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    names = list(rows[0])
    cells = [names] + [
        [f"{row[n]:.4g}" if isinstance(row[n], float) else str(row[n]) for n in names]
        for row in rows
    ]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


if __name__ == "__main__":
    sys.exit(main())
