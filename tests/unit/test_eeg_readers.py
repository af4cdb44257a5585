"""EEG files: what is read, and what is refused in one sentence."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import zipfile
from pathlib import Path

import mne
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from crossfuse.cli import main
from crossfuse.data.eeg import Recording, deap, montage, read_recording, simulated, tables
from crossfuse.data.eeg import edf as edf_bytes
from crossfuse.data.eeg.formats import as_raw
from crossfuse.engine.context import Context
from crossfuse.engine.messages import Request
from crossfuse.errors import CrossfuseError
from crossfuse.pipelines import mca_eeg as pipeline
from crossfuse.trace import load as load_trace

NAMES = ("Fp1", "F3", "Cz", "O2")
RATE = 128


def samples(channels: int = 4, seconds: float = 8, rate: int = RATE) -> np.ndarray:
    random = np.random.default_rng(0)
    return 12 * random.normal(size=(channels, int(seconds * rate)))


def edf(
    data: np.ndarray | None = None,
    names: tuple[str, ...] = NAMES,
    rate: int = RATE,
    bdf: bool = False,
) -> bytes:
    """A plain EDF or BDF of one-second records, written by hand: +-1000 µV."""
    data = samples() if data is None else data
    channels, count = data.shape
    records = count // rate
    top, width = (8388607, 3) if bdf else (32767, 2)

    def text(value: object, size: int) -> bytes:
        return str(value).encode("latin1").ljust(size)[:size]

    head = b"\xffBIOSEMI" if bdf else text("0", 8)
    head += text("X", 80) + text("X", 80) + b"01.01.2500.00.00"
    head += text(256 * (channels + 1), 8) + text("24BIT" if bdf else "", 44)
    head += text(records, 8) + text(1, 8) + text(channels, 4)
    for values, size in (
        (names, 16),
        (["AgAgCl"] * channels, 80),
        (["uV"] * channels, 8),
        ([-1000] * channels, 8),
        ([1000] * channels, 8),
        ([-top - 1] * channels, 8),
        ([top] * channels, 8),
        ([""] * channels, 80),
        ([rate] * channels, 8),
        ([""] * channels, 32),
    ):
        head += b"".join(text(value, size) for value in values)
    digital = np.round((data + 1000) / 2000 * (2 * top + 1) - top - 1).astype("<i4")
    blocks = digital[:, : records * rate].reshape(channels, records, rate).swapaxes(0, 1)
    raw = blocks.astype("<i4").tobytes()
    body = b"".join(raw[i : i + width] for i in range(0, len(raw), 4))
    return head + body


def write(
    kind: str, folder: Path, data: np.ndarray | None = None, channels: tuple[str, ...] = NAMES
) -> dict[str, bytes]:
    """The same recording as files of one format."""
    data = samples() if data is None else data
    if kind in ("edf", "bdf"):
        return {f"a.{kind}": edf(data, channels, bdf=kind == "bdf")}
    if kind == "fif":
        info = mne.create_info(list(channels), RATE, "eeg")
        mne.io.RawArray(data * 1e-6, info, verbose="error").save(
            folder / "a_raw.fif", verbose="error"
        )
        return {"a_raw.fif": (folder / "a_raw.fif").read_bytes()}
    if kind in ("set", "set+fdt"):
        places = np.array([(name,) for name in channels], dtype=[("labels", "O")])
        event = {"latency": 129.0, "type": "tone", "duration": 64.0}
        inside = data.astype(np.float32) if kind == "set" else "a.fdt"
        document = {
            "srate": RATE, "nbchan": len(channels), "pnts": data.shape[1], "trials": 1,
            "data": inside, "chanlocs": places, "event": event,
        }  # fmt: skip
        stream = io.BytesIO()
        savemat(stream, {"EEG": document})
        files = {"a.set": stream.getvalue()}
        if kind == "set+fdt":
            files["a.fdt"] = data.T.astype("<f4").tobytes()
        return files
    if kind in ("vhdr", "zip"):
        header = (
            "Brain Vision Data Exchange Header File Version 1.0\n[Common Infos]\nCodepage=UTF-8\n"
            "DataFile=../../x.eeg\nMarkerFile=x.vmrk\nDataFormat=BINARY\n"
            f"DataOrientation=MULTIPLEXED\nNumberOfChannels={len(channels)}\n"
            f"SamplingInterval={1e6 / RATE}\n"
            "[Binary Infos]\nBinaryFormat=IEEE_FLOAT_32\n[Channel Infos]\n"
            + "".join(f"Ch{i + 1}={name},,1,µV\n" for i, name in enumerate(channels))
        )
        marks = (
            "Brain Vision Data Exchange Marker File, Version 1.0\n[Common Infos]\n"
            "DataFile=x.eeg\n[Marker Infos]\nMk1=Stimulus,S  1,129,1,0\n"
        )
        files = {
            "x.vhdr": header.encode(),
            "x.eeg": data.T.astype("<f4").tobytes(),
            "x.vmrk": marks.encode(),
        }
        if kind == "vhdr":
            return files
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name, content in files.items():
                archive.writestr(f"folder/{name}", content)
        return {"a.zip": stream.getvalue()}
    if kind == "csv":
        seconds = np.arange(data.shape[1]) / RATE
        lines = ["time," + ",".join(channels)]
        lines += [
            f"{t:.6f}," + ",".join(f"{v:.4f}" for v in row)
            for t, row in zip(seconds, data.T, strict=True)
        ]
        return {"a.csv": "\n".join(lines).encode()}
    stream = io.BytesIO()
    np.savez(stream, signal=data, rate=RATE, names=np.array(channels), onsets=[1.0], texts=["x"])
    return {"a.npz": stream.getvalue()}


def attempt(files: dict[str, bytes]) -> tuple[Recording | None, str]:
    """A recording and its notes, or None and the sentence of our own error; no other exception."""
    try:
        recording = read_recording(files)
    except CrossfuseError as error:
        return None, str(error)
    return recording, " ".join(recording.notes)


KINDS = ("edf", "bdf", "fif", "set", "set+fdt", "vhdr", "zip", "csv", "npz")


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_recording(kind: str, tmp_path: Path) -> None:
    recording = read_recording(write(kind, tmp_path))
    assert recording.names == NAMES
    assert recording.rate == RATE
    assert recording.kinds == ("eeg",) * 4
    np.testing.assert_allclose(recording.signal, samples(), atol=0.04)
    assert np.isfinite(recording.positions).all()
    if kind.startswith("set") or kind in ("vhdr", "zip"):
        assert recording.annotations[0].onset == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["edf", "bdf", "set", "fif", "vhdr"])
@settings(max_examples=12, deadline=None)
@given(cut=st.floats(0.02, 0.97), flip=st.integers(0, 10_000), value=st.integers(0, 255))
def test_damage_is_told_in_a_sentence(kind: str, cut: float, flip: int, value: int) -> None:
    """Cut anywhere, one byte changed: a recording, or our own error and no other."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        files = write(kind, Path(folder))
    name = next(iter(files))
    data = bytearray(files[name][: int(len(files[name]) * cut)])
    if data:
        data[flip % len(data)] = value
    recording, _ = attempt({**files, name: bytes(data)})
    assert recording is None or np.isfinite(recording.signal).all()


def test_truncated_edf_keeps_what_is_whole() -> None:
    data = edf()
    recording = read_recording({"a.edf": data[:-700]})
    assert recording.seconds == 7
    assert "7 are whole" in recording.notes[0]
    np.testing.assert_allclose(recording.signal, samples()[:, : 7 * RATE], atol=0.04)
    with pytest.raises(CrossfuseError, match="first whole record"):
        edf_bytes.check(data[: 256 * 5 + 10], bdf=False)


@pytest.mark.parametrize(
    ("place", "lie", "says"),
    [
        (slice(252, 256), b"9999", "signals"),
        (slice(252, 256), b"abcd", "no readable numbers"),
        (slice(184, 192), b"64      ", "bytes of header"),
        (slice(236, 244), b"-1      ", ""),
        (slice(236, 244), b"2       ", "declares 2 records"),
        (slice(244, 252), b"nan     ", "impossible"),
        (slice(244, 252), b"1e-9    ", "rate"),
        (slice(1120, 1128), b"99999999", "rate"),
    ],
)
def test_headers_that_lie(place: slice, lie: bytes, says: str) -> None:
    data = bytearray(edf())
    data[place] = lie
    recording, sentence = attempt({"a.edf": bytes(data)})
    assert says in sentence
    assert recording is None or recording.signal.shape == (4, 8 * RATE)


@pytest.mark.parametrize("bdf", [False, True])
def test_plain_files_are_decoded_as_mne_does(bdf: bool, tmp_path: Path) -> None:
    data = edf(bdf=bdf)
    layout = edf_bytes.plain_layout(data, bdf=bdf)
    assert layout is not None
    path = tmp_path / ("a.bdf" if bdf else "a.edf")
    path.write_bytes(data)
    reader = mne.io.read_raw_bdf if bdf else mne.io.read_raw_edf
    true = reader(path, verbose="error").get_data() * 1e6
    np.testing.assert_allclose(edf_bytes.decode(data, layout), true, rtol=1e-5, atol=1e-4)
    # A unit that is no voltage, or a range that is empty: MNE decides what the numbers are.
    place = 256 + 96 * 4
    other = data[:place] + b"Boolean " + data[place + 8 :]
    assert edf_bytes.plain_layout(other, bdf=bdf) is None


def test_text_mode_copies_are_refused() -> None:
    """A copy that turned line ends: sizes of millivolts, or no whole record."""
    broken = edf().replace(b"\n", b"\r\n")
    assert "again in binary mode" in attempt({"a.edf": broken})[1]


def test_one_channel_and_256() -> None:
    assert read_recording({"a.edf": edf(samples(1), ("Cz",))}).signal.shape[0] == 1
    names = tuple(f"E{i + 1}" for i in range(256))
    recording = read_recording({"a.bdf": edf(samples(256, 2), names, bdf=True)})
    assert recording.signal.shape == (256, 2 * RATE)
    assert "244 more" in recording.notes[-1]
    assert np.isnan(recording.positions).all()


def test_nan_and_flat_channels_are_mended_and_told() -> None:
    data = samples()
    data[1, 100:164] = np.nan
    data[2] = 5.0
    data[3] = np.nan
    stream = io.BytesIO()
    np.savez(stream, signal=data, rate=RATE, names=np.array(NAMES))
    recording = read_recording({"a.npz": stream.getvalue()})
    assert np.isfinite(recording.signal).all()
    assert recording.bad == ("O2", "Cz")
    assert recording.annotations[0].text == "BAD nan"
    assert recording.annotations[0].onset == pytest.approx(100 / RATE)
    assert recording.annotations[0].duration == pytest.approx(64 / RATE)
    assert "0.50 s" in " ".join(recording.notes)


@pytest.mark.parametrize("kind", ["edf", "bdf", "vhdr", "npz", "set"])
def test_a_stated_unit_replaces_the_files_own(kind: str, tmp_path: Path) -> None:
    files = write(kind, tmp_path)
    same = read_recording(files, unit="µV")
    np.testing.assert_allclose(same.signal, samples(), atol=0.04)
    tiny = write(kind, tmp_path, samples() / 100)
    larger = read_recording(tiny, unit="mV")
    np.testing.assert_allclose(larger.signal, 10 * samples(), atol=20 if kind == "edf" else 0.1)


def test_implausible_units_are_refused_and_can_be_stated() -> None:
    stream = io.BytesIO()
    np.savez(stream, signal=samples() * 1e-6, rate=RATE, names=np.array(NAMES))
    with pytest.raises(CrossfuseError, match="state the unit"):
        read_recording({"a.npz": stream.getvalue()})
    recording = read_recording({"a.npz": stream.getvalue()}, unit="V")
    np.testing.assert_allclose(recording.signal, samples(), rtol=1e-5)


def csv(text: str, **options: float) -> object:
    return tables.read_text(text.encode(), rate=options.get("rate"), unit=None)


ROWS = "\n".join(f"{i},{2 * i}" for i in range(20))


@pytest.mark.parametrize(
    ("text", "rate", "says"),
    [
        (ROWS, None, "state it in Hz"),
        ("a\n1\n", None, "state it in Hz"),
        ("", 128.0, "fewer than two lines"),
        ("a,b\nx,y\nz,w\n", 128.0, "no column"),
        ("a,b\n1,2\n3\n5,6\n", 128.0, "line 3"),
        ("a,b\n1,2\n3,oops\n5,6\n7,8\n9,1\n", 128.0, "'oops'"),
        ("time,a\n0,1\n0,2\n0,3\n", None, "does not grow"),
        ("time,a\n0,1\n1,2\n9,3\n10,4\n11,5\n", None, "gaps"),
        ("time\n0\n1\n2\n", None, "time column only"),
    ],
)
def test_tables_that_cannot_be(text: str, rate: float | None, says: str) -> None:
    with pytest.raises(CrossfuseError, match=says):
        tables.read_text(text.encode(), rate=rate, unit="µV")


def test_tables_of_many_makes() -> None:
    plain = tables.read_text(ROWS.encode(), rate=100.0, unit="µV")
    assert plain.names == ("column 1", "column 2")
    assert plain.signal.shape == (2, 20)
    text = "Cz;Notiz;Fz\n" + "\n".join(f"{i},5;hello;{i},25" for i in range(20))
    german = tables.read_text(text.encode("utf-16"), rate=100.0, unit="µV")
    assert german.names == ("Cz", "Fz")
    assert german.signal[1, 3] == pytest.approx(3.25)
    assert "Notiz" in german.notes[0]
    spaces = tables.read_text(b"1 2 3\n4 5 6\n", rate=100.0, unit="mV")
    assert spaces.signal[2].tolist() == [3000, 6000]
    milliseconds = "ms\tCz\n" + "\n".join(f"{4 * i}\t{i % 7}" for i in range(30))
    assert tables.read_text(milliseconds.encode(), rate=None, unit="µV").rate == 250
    gaps = tables.read_text(b"Cz,Fz\n1,2\n,3\n4,5\n", rate=100.0, unit="µV")
    assert np.isnan(gaps.signal[0, 1])


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": np.ones(3)}, "no array 'signal'"),
        ({"signal": np.ones((2, 3))}, "no number 'rate'"),
        ({"signal": np.ones((2, 3, 4)), "rate": 128}, "shape"),
        ({"signal": np.array([["a", "b"]]), "rate": 128}, "numbers"),
        ({"signal": np.ones((2, 9)), "rate": np.inf}, "rate"),
        ({"signal": np.ones((2, 9)), "rate": 128, "unit": "furlong"}, "furlong"),
        ({"signal": np.ones((2, 9)), "rate": 128, "onsets": [1, 2], "texts": ["a"]}, "onsets"),
        ({"signal": np.array([[object()]]), "rate": 128}, "plain arrays"),
    ],
)
def test_npz_that_cannot_be(arrays: dict[str, object], says: str) -> None:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    with pytest.raises(CrossfuseError, match=says):
        read_recording({"a.npz": stream.getvalue()})


def archive(*names: str, content: bytes = b"x") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as opened:
        for name in names:
            opened.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "empty"),
        ({"a.edf": b""}, "empty"),
        ({"a.fdt": b"\0" * 64}, r"\.set beside"),
        ({"a.eeg": b"\0" * 64}, r"\.vhdr"),
        ({"a.bin": b"\0\1\2\3" * 64}, "not one that is read"),
        ({"a.edf": edf(), "b.edf": edf()}, "2 recordings"),
        ({"a.zip": archive("../../a.edf")}, "leads outside"),
        ({"a.zip": archive("/etc/a.edf")}, "leads outside"),
        ({"a.zip": archive("C:\\x\\..\\a.edf")}, "leads outside"),
        ({"a.zip": archive(*(f"{i}.edf" for i in range(99)))}, "99 files"),
        ({"a.zip": archive("a.edf", content=b"\0" * 40_000_000)}, "unpack"),
        ({"a.zip": archive()}, "empty"),
        ({"a.zip": archive("a.edf")[:-9]}, "zip archive"),
        ({"a.edf": edf()[:100]}, "inside its header"),
    ],
)
def test_uploads_that_cannot_be(files: dict[str, bytes], says: str) -> None:
    with pytest.raises(CrossfuseError, match=says):
        read_recording(files)


def test_companions_that_are_missing(tmp_path: Path) -> None:
    files = write("set+fdt", tmp_path)
    with pytest.raises(CrossfuseError, match=r"'a\.fdt'"):
        read_recording({"a.set": files["a.set"]})
    with pytest.raises(CrossfuseError, match="bytes"):
        read_recording({**files, "a.fdt": files["a.fdt"][:-40]})
    files = write("vhdr", tmp_path)
    with pytest.raises(CrossfuseError, match=r"'x\.eeg'"):
        read_recording({"x.vhdr": files["x.vhdr"], "x.vmrk": files["x.vmrk"]})


def test_newer_matlab_files_are_told() -> None:
    with pytest.raises(CrossfuseError, match=r"7\.3"):
        read_recording({"a.set": b"MATLAB 7.3 MAT-file, Platform: X".ljust(512)})


# --- channel names ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "standard"),
    [
        ("EEG T3-REF", "T7"),
        ("T6", "P8"),
        ("Fp1.", "Fp1"),
        ("FC5..", "FC5"),
        ("eeg fpz", "Fpz"),
        ("EEG Fp2-A1", "Fp2"),
        ("POL O1", "O1"),
        ("Cz-LE", "Cz"),
        ("CZ", "Cz"),
        ("AFF1h", "AFF1h"),
        ("E17", None),
        ("banana", None),
        ("", None),
    ],
)
def test_names_of_many_makers(name: str, standard: str | None) -> None:
    assert montage.standard_name(name) == standard


def test_what_is_not_matched_and_why() -> None:
    found = montage.match(["Cz", "EEG Cz-REF", "EEG A2-A1", "ECG ECG", "F3-C3", "X9", "M1"])
    assert found.standard == ("Cz", None, None, None, None, None, "M1")
    assert "second channel" in found.why[1]
    assert "difference" in found.why[2]
    assert "ECG" in found.why[3]
    assert "difference" in found.why[4]
    assert "not a 10-20" in found.why[5]
    assert found.kinds[6] == "ref"


# --- DEAP ------------------------------------------------------------------------------------


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("open('/tmp/crossfuse-was-here', 'w')",)


def test_deap_files_are_read_without_running_them(tmp_path: Path) -> None:
    data = deap.generate(1, trials=4, samples=1024)
    arrays = deap.load_arrays(data)
    true = pickle.loads(data)
    np.testing.assert_array_equal(arrays["data"], true["data"])
    np.testing.assert_array_equal(arrays["labels"], true["labels"])
    recording = read_recording({"s01.dat": data}, trial=2)
    assert recording.names[:3] == ("Fp1", "AF3", "F3")
    assert recording.kinds.count("eeg") == 32
    assert recording.annotations[1].onset == 3.0
    with pytest.raises(CrossfuseError, match="0 to 3"):
        read_recording({"s01.dat": data}, trial=4)
    stream = io.BytesIO()
    savemat(stream, true)
    np.testing.assert_allclose(
        read_recording({"s01.mat": stream.getvalue()}, trial=2).signal, recording.signal, rtol=1e-5
    )


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_pickle_that_would_execute_is_refused(protocol: int) -> None:
    evil = pickle.dumps({"data": Evil(), "labels": Evil()}, protocol=protocol)
    with pytest.raises(CrossfuseError, match=r"nothing of it was run|is read|are read"):
        deap.load_arrays(evil)
    assert not Path("/tmp/crossfuse-was-here").exists()


def test_python_2_strings_are_read() -> None:
    """The release was pickled by Python 2: bytes stand where Python 3 writes encoded text."""
    array = np.arange(6, dtype="<f8").reshape(2, 3)

    def short(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text

    made = b"\x80\x02}q\x00" + short(b"data")
    made += b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nK\x00\x85" + short(b"b")
    made += b"\x87R(K\x01K\x02K\x03\x86cnumpy\ndtype\n" + short(b"f8") + b"K\x00K\x01\x87R"
    made += b"(K\x03" + short(b"<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    made += b"T" + struct.pack("<i", array.nbytes) + array.tobytes() + b"tbs."
    np.testing.assert_array_equal(deap.load_arrays(made)["data"], array)


@settings(max_examples=60, deadline=None)
@given(place=st.integers(2, 400), value=st.integers(0, 255), cut=st.integers(0, 300))
def test_damaged_pickles_are_told(place: int, value: int, cut: int) -> None:
    data = bytearray(pickle.dumps({"data": np.ones((2, 3)), "labels": np.ones(2)}, protocol=2))
    data[place % len(data)] = value
    with contextlib.suppress(CrossfuseError):  # any other exception is a failure
        deap.load_arrays(bytes(data[: len(data) - cut]))


def test_arrays_that_lie_about_their_size() -> None:
    data = pickle.dumps({"data": np.ones((2, 3)), "labels": np.ones(2)}, protocol=2)
    lie = data.replace(b"K\x02K\x03\x86", b"K\x7fK\x7f\x86")
    assert lie != data
    with pytest.raises(CrossfuseError, match="does not fit"):
        deap.load_arrays(lie)
    with pytest.raises(CrossfuseError, match=r"type 'O8'|objects|array"):
        deap.load_arrays(pickle.dumps({"data": np.array([object()])}, protocol=2))


# --- and back to MNE -------------------------------------------------------------------------


def test_recordings_go_back_to_mne(tmp_path: Path) -> None:
    recording = read_recording(write("npz", tmp_path))
    raw = as_raw(recording)
    np.testing.assert_allclose(raw.get_data() * 1e6, recording.signal, rtol=1e-5)
    assert raw.annotations.description[0] == "x"


@pytest.mark.parametrize("kind", ["edf", "bdf", "set", "set+fdt", "csv"])
def test_explain_on_the_command_line(kind: str, tmp_path: Path) -> None:
    """The classifier speaks, and says the same of every format."""
    recording = simulated.simulate()
    data = recording.signal[:, : 30 * RATE].astype(float)
    files = write(kind, tmp_path, data, recording.names)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    source, out = tmp_path / next(iter(files)), tmp_path / "trace.npz"
    assert main(["explain", "mca_eeg", "--input", str(source), "--out", str(out)]) == 0
    trace = load_trace(out)
    assert {entry.stage for entry in trace.maps} == {
        "score", "relevance", "fusion", "scaling", "time"
    }  # fmt: skip
    told = {
        "names": ("a.npz",),
        "contents": (write("npz", tmp_path, data, recording.names)["a.npz"],),
    }
    same = pipeline.run(Request("mca_eeg", told), Context()).trace
    assert same is not None
    for entry, other in zip(trace.maps, same.maps, strict=True):
        if entry.kind == "attention":
            np.testing.assert_allclose(entry.weights, other.weights, atol=0.03)
