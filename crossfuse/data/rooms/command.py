"""``crossfuse data rooms``: compose rooms into a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from crossfuse.data.rooms.compose import generate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder to write to; resumable")
    parser.add_argument("--scenes", type=int, default=85, help="training rooms")
    parser.add_argument("--val-scenes", type=int, default=None, help="by default a third as many")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--workers", type=int, default=1, help="processes that share the work")
    parser.add_argument(
        "--furniture", type=Path, default=None,
        help="folder of the unpacked Debian package sweethome3d-furniture, if it is not installed",
    )  # fmt: skip


def make(arguments: argparse.Namespace) -> None:
    generate(
        arguments.out,
        arguments.scenes,
        arguments.seed,
        val_scenes=arguments.val_scenes,
        furniture_folder=arguments.furniture,
        workers=arguments.workers,
    )
