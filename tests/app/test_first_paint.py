"""Nothing heavy is imported before the first paint of the home page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "mne", "open3d", "matplotlib", "skimage", "sklearn")
SCRIPT = """
import sys
from streamlit.testing.v1 import AppTest

app = AppTest.from_file("app.py", default_timeout=60).run()
assert app.title and not app.exception
print(",".join(name for name in %r if name in sys.modules))
"""


def test_the_home_page_imports_nothing_heavy() -> None:
    code = SCRIPT % (HEAVY,)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
