"""EEG recordings: what people upload, and the data sets for training.

``recording``: the frozen :class:`Recording` that every reader returns. ``formats``: EDF, BDF, GDF,
FIF, EEGLAB, BrainVision, CSV, NPZ, zip. ``deap``: the DEAP files, through a loader that executes
nothing. ``montage``: channel names and places. ``cleaning``: filters, references, bad channels,
baseline. ``eegmat``: the mental-arithmetic data set. ``simulated``: a recording of known content.
"""

from crossfuse.data.eeg.formats import read_recording
from crossfuse.data.eeg.recording import Annotation, Recording

__all__ = ["Annotation", "Recording", "read_recording"]
