"""LAZ on standard input to LAS on standard output, as a process of its own.

The decoder is compiled code: a damaged chunk table makes it ask for any amount of memory and then
ends the process. This one may; the app that started it goes on. Run by its path, without crossfuse.
"""

from __future__ import annotations

import io
import sys

MOST_MEMORY = 4 << 30


def main() -> None:
    try:
        import resource
    except ModuleNotFoundError:  # no such limits on this system
        pass
    else:
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    import laspy

    las = laspy.read(io.BytesIO(sys.stdin.buffer.read()))
    unpacked = io.BytesIO()
    las.write(unpacked, do_compress=False)
    sys.stdout.buffer.write(unpacked.getvalue())


if __name__ == "__main__":
    main()
