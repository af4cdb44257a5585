"""Requests in, results out. Pages and the command line ask the same engine.

Importing this package imports neither torch nor Streamlit.
"""

from crossfuse.engine.context import Cancelled, Context
from crossfuse.engine.embedded import EmbeddedEngine
from crossfuse.engine.interface import Engine, Job, PipelineError, Statistics, WarmUp
from crossfuse.engine.messages import Request, Result

__all__ = [
    "Cancelled",
    "Context",
    "EmbeddedEngine",
    "Engine",
    "Job",
    "PipelineError",
    "Request",
    "Result",
    "Statistics",
    "WarmUp",
]
