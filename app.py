"""The entry of the app: ``streamlit run app.py``."""

from crossfuse.ui.navigation import build_navigation
from crossfuse.ui.shell import run_page, style, top_bar

style()
page = build_navigation()
top_bar()
run_page(page.run)
