"""Requests in, results out. Pages and the command line ask the same engine.

Importing this package imports neither torch nor Streamlit.
"""

from crossfuse.engine.context import Cancelled, Context
from crossfuse.engine.messages import Request, Result

__all__ = ["Cancelled", "Context", "Request", "Result"]
