"""The entry of the app: ``streamlit run app.py``."""

from crossfuse.ui.navigation import build_navigation
from crossfuse.ui.shell import run_page, style, top_bar
from crossfuse.ui.state import keep_link, link_taken
from crossfuse.ui.warm_up import warm_up_behind

style()
page = build_navigation()
name = page.url_path or "home"
keep_link(name)
badge = top_bar()
run_page(page.run)
link_taken(name)
warm_up_behind(badge)
