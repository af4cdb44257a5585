"""crossfuse: see how modalities attend to each other."""

__version__ = "0.1.0"
