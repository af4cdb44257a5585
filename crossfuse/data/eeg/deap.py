"""DEAP (Koelstra et al. 2012) preprocessed files, read without executing anything.

``sNN.dat`` is a Python pickle of ``{"data": (40, 40, 8064), "labels": (40, 4)}``: trials x
channels x samples at 128 Hz (3 s before the video, 60 s of it), and valence, arousal, dominance,
liking from 1 to 9. A pickle is a program for a small stack machine. The loader here reads its
instructions with ``pickletools`` and builds *descriptions* only: it never imports a name, never
calls anything, and accepts the few instructions that dictionaries of numeric arrays need.
"""

from __future__ import annotations

import math
import pickle
import pickletools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from crossfuse.data.eeg.recording import Annotation, Recording
from crossfuse.errors import CrossfuseError
from crossfuse.notices import Notice

CHANNELS = (
    *("Fp1", "AF3", "F3", "F7", "FC5", "FC1", "C3", "T7", "CP5", "CP1", "P3", "P7", "PO3", "O1"),
    *("Oz", "Pz", "Fp2", "AF4", "Fz", "F4", "F8", "FC6", "FC2", "Cz", "C4", "T8", "CP6", "CP2"),
    *("P4", "P8", "PO4", "O2"),
)
OTHERS = ("hEOG", "vEOG", "zEMG", "tEMG", "GSR", "Respiration", "Plethysmograph", "Temperature")
SCALES = ("valence", "arousal", "dominance", "liking")
RATE = 128.0
BEFORE = 3.0  # seconds before the stimulus
RECONSTRUCT = {
    "numpy.core.multiarray _reconstruct",
    "numpy._core.multiarray _reconstruct",
}
ADVICE = Notice("only the arrays 'data' and 'labels' of the DEAP release are read from such files")


@dataclass
class _Name:
    """A dotted name in the pickle. It stays text."""

    text: str


@dataclass
class _Call:
    """What the pickle would call, and with what; ``state`` is what it would set afterwards."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None


@dataclass
class _Machine:
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items


_VALUES = {
    *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "BINFLOAT", "FLOAT"),
    *("BINSTRING", "SHORT_BINSTRING", "STRING", "BINUNICODE", "SHORT_BINUNICODE", "UNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_ALLOWED = {
    "numpy ndarray",
    "numpy dtype",
    "_codecs encode",
    *RECONSTRUCT,
}


def load_arrays(data: bytes) -> dict[str, np.ndarray]:
    """The numeric arrays of a pickled dictionary of arrays.

    Raises:
        CrossfuseError: anything in the pickle but text, numbers, tuples, dictionaries and NumPy
            arrays of plain numbers.
    """
    try:
        document = _interpret(data)
        if not isinstance(document, dict):
            raise CrossfuseError("the pickle does not hold a dictionary; {advice}", advice=ADVICE)
        return {
            key: _array(value)
            for key, value in document.items()
            if isinstance(key, str) and isinstance(value, _Call)
        }
    except CrossfuseError:
        raise
    # A damaged pickle can trip the stack machine anywhere; none of it has run anything.
    except Exception as error:
        raise CrossfuseError(
            "the .dat file is damaged ({name}: {error}); copy it again",
            name=type(error).__name__,
            error=str(error)[:80],
        ) from error


def _interpret(data: bytes) -> Any:
    machine = _Machine()
    stack, memo = machine.stack, machine.memo
    argument: Any
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            return stack.pop()
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            machine.marks.append(len(stack))
        elif name in ("EMPTY_DICT", "DICT"):
            stack.append({} if name == "EMPTY_DICT" else _pairs({}, machine.since_mark()))
        elif name == "EMPTY_TUPLE":
            stack.append(())
        elif name == "TUPLE":
            stack.append(tuple(machine.since_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            items = tuple(stack[-count:])
            del stack[-count:]
            stack.append(items)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _pairs(stack[-1], [key, value])
        elif name == "SETITEMS":
            items_ = machine.since_mark()
            _pairs(stack[-1], items_)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            if name == "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                argument = f"{module} {attribute}"
            if argument not in _ALLOWED:
                raise CrossfuseError(
                    "the pickle would load {argument!r}; nothing of it was run, and {advice}",
                    argument=str(argument)[:60],
                    advice=ADVICE,
                )
            stack.append(_Name(argument))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            if not isinstance(function, _Name) or not isinstance(arguments, tuple):
                raise CrossfuseError(
                    "the pickle calls something that is no array; {advice}", advice=ADVICE
                )
            stack.append(_Call(function.text, arguments))
        elif name == "BUILD":
            state = stack.pop()
            if not isinstance(stack[-1], _Call):
                raise CrossfuseError(
                    "the pickle builds something that is no array; {advice}", advice=ADVICE
                )
            stack[-1].state = state
        else:
            raise CrossfuseError(
                "the pickle uses the instruction {name}; {advice}", name=name, advice=ADVICE
            )
    raise CrossfuseError("the .dat file ends in its middle; copy it again")


def _pairs(target: Any, items: list[Any]) -> dict[Any, Any]:
    if not isinstance(target, dict) or len(items) % 2:
        raise CrossfuseError(
            "the pickle fills something that is no dictionary; {advice}", advice=ADVICE
        )
    for key, value in zip(items[::2], items[1::2], strict=True):
        key = key.decode("latin1") if isinstance(key, bytes) else key
        if not isinstance(key, str):
            raise CrossfuseError("the pickle has a key that is no text; {advice}", advice=ADVICE)
        target[key] = value
    return target


def _text(value: Any) -> str:
    if isinstance(value, _Call) and value.name == "_codecs encode":
        value = value.arguments[0]
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _raw(value: Any) -> bytes:
    if isinstance(value, _Call) and value.name == "_codecs encode":
        if len(value.arguments) != 2 or value.arguments[1] != "latin1":
            raise CrossfuseError(
                "the pickle encodes its samples in an unknown way; {advice}", advice=ADVICE
            )
        value = value.arguments[0]
    if isinstance(value, str):
        return value.encode("latin1")
    if isinstance(value, bytes):
        return value
    raise CrossfuseError("the pickle holds an array of objects; {advice}", advice=ADVICE)


def _array(call: _Call) -> np.ndarray:
    """The array that a description stands for; its shape must fit its bytes exactly."""
    if call.name not in RECONSTRUCT or not isinstance(call.state, tuple) or len(call.state) != 5:
        raise CrossfuseError("the pickle holds {name!r}; {advice}", name=call.name, advice=ADVICE)
    _, shape, dtype, fortran, raw = call.state
    if not isinstance(dtype, _Call) or dtype.name != "numpy dtype" or not dtype.arguments:
        raise CrossfuseError(
            "the pickle holds an array without a number type; {advice}", advice=ADVICE
        )
    code = _text(dtype.arguments[0])
    if code not in ("f4", "f8", "i2", "i4", "i8", "u1", "i1"):
        raise CrossfuseError(
            "the pickle holds an array of type {code!r}; {advice}", code=code[:20], advice=ADVICE
        )
    order = "<"
    if isinstance(dtype.state, tuple) and len(dtype.state) > 1 and _text(dtype.state[1]) == ">":
        order = ">"
    shape = tuple(int(n) for n in shape)
    content = _raw(raw)
    kind = np.dtype(order + code)
    if min(shape, default=1) < 0 or math.prod(shape) * kind.itemsize != len(content):
        raise CrossfuseError(
            "an array of shape {shape} and type {code} does not fit its {content} bytes; "
            "the .dat file is damaged",
            shape=shape,
            code=code,
            content=len(content),
        )
    array = np.frombuffer(content, kind)
    return array.reshape(shape, order="F" if fortran else "C").astype(kind.newbyteorder("="))


def arrays_of(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """``data`` (trials, channels, samples) and ``labels`` (trials, 4) of a sNN.dat."""
    arrays = load_arrays(data)
    missing = [name for name in ("data", "labels") if name not in arrays]
    if missing:
        raise CrossfuseError(
            "the .dat file has no array {missing!r}; {advice}", missing=missing[0], advice=ADVICE
        )
    return check(arrays["data"], arrays["labels"])


def check(data: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    data, labels = np.asarray(data), np.asarray(labels)
    if data.dtype.kind not in "fiu" or labels.dtype.kind not in "fiu":
        raise CrossfuseError("DEAP's data and labels must be numbers; download the file again")
    if data.ndim != 3 or data.shape[1] < 32 or data.shape[2] < 2 * RATE:
        raise CrossfuseError(
            "DEAP's data have the shape (trials, 40, 8064), this file {shape}; use the "
            "'preprocessed python' or 'preprocessed matlab' release",
            shape=data.shape,
        )
    if labels.shape != (data.shape[0], 4):
        raise CrossfuseError(
            "DEAP's labels have the shape (trials, 4), this file {shape} for {trials} "
            "trials; download it again",
            shape=labels.shape,
            trials=data.shape[0],
        )
    return data, labels


def read_dat(data: bytes, *, trial: int = 0) -> Recording:
    """One trial of a preprocessed ``sNN.dat`` as a recording."""
    return from_arrays(*arrays_of(data), trial)


def from_arrays(data: Any, labels: Any, trial: int) -> Recording:
    """One trial as a recording: 32 EEG and up to 8 other channels, 3 s before the stimulus."""
    data, labels = check(data, labels)
    if not 0 <= trial < len(data):
        raise CrossfuseError(
            "trial {trial} was asked for; the file has 0 to {data}", trial=trial, data=len(data) - 1
        )
    names = (CHANNELS + OTHERS)[: data.shape[1]]
    names += tuple(f"channel {i + 1}" for i in range(len(names), data.shape[1]))
    kinds = (("eeg",) * 32 + ("eog", "eog", "emg", "emg") + ("misc",) * 400)[: len(names)]
    length = data.shape[2] / RATE
    marks = (
        Annotation(0.0, BEFORE, "baseline"),
        Annotation(BEFORE, length - BEFORE, f"video of trial {trial + 1}"),
    )
    ratings = ", ".join(f"{n} {v:.2f}" for n, v in zip(SCALES, labels[trial], strict=True))
    note = Notice(
        "Trial {trial} of {count} of a DEAP file; the person's ratings: {ratings}.",
        trial=trial + 1,
        count=len(data),
        ratings=ratings,
    )
    return Recording(
        data[trial].astype(np.float32), RATE, names, kinds, marks, format="DEAP", notes=(note,)
    )


def generate(seed: int, trials: int = 40, samples: int = 8064, scale: str = "valence") -> bytes:
    """A file in DEAP's format of known content: no person's data.

    In trials rated 5 or more on ``scale``, posterior alpha is halved and frontal theta doubled
    while the "video" runs; the other ratings are random. Channels are pink noise with a peak at
    10 Hz over the back of the head.
    """
    random = np.random.default_rng(seed)
    labels = random.uniform(1, 9, (trials, 4))
    column = SCALES.index(scale)
    high = np.arange(trials) % 2 == 1
    labels[:, column] = np.where(high, random.uniform(6, 9, trials), random.uniform(1, 4, trials))
    frequencies = np.fft.rfftfreq(samples, 1 / RATE)
    shape = np.where(
        (frequencies >= 4) & (frequencies <= 45), 1 / np.sqrt(np.maximum(frequencies, 1)), 0
    )
    white = random.normal(size=(trials, 40, samples))
    data = np.fft.irfft(np.fft.rfft(white) * shape, n=samples)
    data *= 10 / data.std()
    seconds = np.arange(samples) / RATE
    video = seconds >= BEFORE
    for row, name in enumerate(CHANNELS):
        back = name[0] in "PO" or name.startswith("CP")
        front = name[0] == "F" or name.startswith("AF")
        for trial in range(trials):
            lift = high[trial] & video
            phase = random.uniform(0, 2 * np.pi, 2)
            if back:
                size = np.where(lift, 5.0, 10.0)
                data[trial, row] += size * np.sin(2 * np.pi * 10 * seconds + phase[0])
            if front:
                size = np.where(lift, 8.0, 4.0)
                data[trial, row] += size * np.sin(2 * np.pi * 6 * seconds + phase[1])
    return pickle.dumps({"labels": labels, "data": data}, protocol=2)
