"""From a file to a trace, on the simulated recording and on files written here."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import lru_cache

import mne
import numpy as np
import pytest
import torch

from crossfuse.cli import main
from crossfuse.data.eeg import Recording, cleaning, montage, simulated
from crossfuse.engine.context import Context
from crossfuse.engine.messages import Request, Result
from crossfuse.errors import CrossfuseError
from crossfuse.explain import eeg as relevance
from crossfuse.models.mca_eeg import MCAEEG, MCAEEGConfig
from crossfuse.pipelines import eeg_maps
from crossfuse.pipelines import mca_eeg as pipeline
from crossfuse.trace import load
from crossfuse.ui.eeg import first_view
from crossfuse.ui.traces import envelope
from crossfuse.viz.eeg import annotations_text, weights_csv


def ask(inputs: dict[str, object] | None = None, **options: object) -> Result:
    return pipeline.run(Request("mca_eeg", inputs or {"sample": "simulated"}, options), Context())


@lru_cache(maxsize=1)
def sample() -> Result:
    return ask()


def as_npz(recording: Recording) -> bytes:
    stream = io.BytesIO()
    np.savez(
        stream,
        signal=recording.signal,
        rate=recording.rate,
        names=np.array(recording.names),
        unit="µV",
    )
    return stream.getvalue()


def upload(recording: Recording, **options: object) -> Result:
    return ask({"names": ("a.npz",), "contents": (as_npz(recording),)}, **options)


def cut(recording: Recording, seconds: float) -> Recording:
    return replace(recording, signal=recording.signal[:, : int(seconds * recording.rate)])


# --- the planted truth -----------------------------------------------------------------------


def test_the_plant_is_where_relevance_is_highest() -> None:
    """The strongest cell lies in a planted band and time, and on the head above the source."""
    result = sample()
    plant = simulated.PLANT
    assert result.trace is not None
    cells = result.outputs["cells"]
    band, window = np.unravel_index(np.abs(cells).argmax(), cells.shape)
    bands = result.trace.geometries["cells"].bands
    start, stop = result.outputs["times"][window]
    assert bands[band] in plant.bands
    assert plant.start - 3 <= start < stop <= plant.stop + 3
    item = band * cells.shape[1] + window
    for method in ("occlusion", "gradient"):
        entry = result.trace.select(stage="relevance", direction=method)[0]
        row = entry.row(item)
        assert row is not None
        names = result.trace.geometries["channels"].names
        assert names[int(np.abs(row).argmax())] in plant.channels


def test_the_score_follows_the_plant() -> None:
    times, probability = sample().outputs["times"], sample().outputs["probability"]
    inside = (times[:, 0] >= simulated.PLANT.start) & (times[:, 1] <= simulated.PLANT.stop)
    calm = (times[:, 1] <= simulated.PLANT.start - 6) & (times[:, 0] > 6)
    assert probability[inside].mean() > 0.8
    assert probability[calm].mean() < 0.3


def test_simulation_repeats_and_its_gains_are_those_of_the_sphere() -> None:
    np.testing.assert_array_equal(simulated.simulate().signal, simulated.simulate().signal)
    with np.load(simulated.GAINS) as archive:
        gains = archive["gains"]
    assert gains.shape == (19, 63)
    assert 0.03 < np.abs(gains).mean() < 0.06
    fz = montage.TEN_TWENTY.index("Fz")
    assert gains[:, 0].argmax() == fz


# --- the trace -------------------------------------------------------------------------------


def test_maps_are_those_of_the_network() -> None:
    result = sample()
    assert result.trace is not None
    fusion = result.trace.select(stage="fusion")
    assert len(fusion) == 2 * 40
    for entry in fusion[::13]:
        assert entry.weights.shape == (5, 19, 19)
        np.testing.assert_allclose(entry.weights.sum(-1), 1, atol=1e-5)
    assert result.outputs["saturation"][0] < 0.5


def test_decibels_saturate() -> None:
    loud = simulated.simulate()
    result = upload(cut(replace(loud, signal=8 * loud.signal), 30), normalise="none")
    assert result.outputs["saturation"][0] > 0.5
    assert any("Saturated" in note for note in result.notes)
    trial = ask(normalise="subtract", scope="trial")
    assert trial.trace is not None
    assert len(trial.trace.select(stage="fusion")) == 2


def test_occlusion_and_gradient_against_the_definition() -> None:
    torch.manual_seed(0)
    model = MCAEEG(MCAEEGConfig(channels=8)).eval().requires_grad_(False)
    de, psd = torch.randn(2, 3, 8, 5, 3)
    base = relevance.scores(model, de, psd)
    found = relevance.occlude_channels(model, de, psd, base)
    a, b = de.clone(), psd.clone()
    a[1, 4, 2], b[1, 4, 2] = 0, 0
    expected = base[1] - relevance.scores(model, a, b)[1]
    torch.testing.assert_close(found[1, 2, 4], expected)
    bands = relevance.occlude_bands(model, de, psd, base)
    a, b = de.clone(), psd.clone()
    a[:, :, 3], b[:, :, 3] = 0, 0
    torch.testing.assert_close(bands[:, 3], base - relevance.scores(model, a, b))
    gradient = relevance.gradient_input(model, de, psd)
    step = 1e-3
    scaled = (relevance.scores(model, de * (1 + step), psd * (1 + step)) - base) / step
    torch.testing.assert_close(gradient.sum((1, 2)), scaled, atol=0.05, rtol=0.1)


def test_unused_inputs_have_no_relevance() -> None:
    """A channel at its baseline throughout changes nothing when it is set to the baseline."""
    torch.manual_seed(0)
    model = MCAEEG(MCAEEGConfig(channels=8)).eval().requires_grad_(False)
    de, psd = torch.randn(2, 3, 8, 5, 3)
    de[:, 2], psd[:, 2] = 0, 0
    base = relevance.scores(model, de, psd)
    assert relevance.occlude_channels(model, de, psd, base)[:, :, 2].abs().max() < 1e-5
    assert relevance.gradient_input(model, de, psd)[:, :, 2].abs().max() == 0


# --- recordings of all kinds -----------------------------------------------------------------


def test_old_names_extra_and_missing_channels() -> None:
    full = simulated.simulate()
    names = tuple(
        {"T7": "EEG T3-REF", "P8": "EEG T6-REF"}.get(name, f"EEG {name}-REF") for name in full.names
    )
    same = upload(replace(full, names=names))
    np.testing.assert_allclose(same.outputs["score"], sample().outputs["score"], atol=1e-3)
    fewer = full.pick([name for name in full.names if name not in ("C3", "O1")])
    result = upload(fewer)
    assert "probability" in result.outputs
    assert any("C3, O1: interpolated" in note for note in result.notes)
    few = upload(full.pick(["Fz", "Cz", "Pz", "O1"]))
    assert "probability" not in few.outputs
    assert few.trace is not None
    assert few.trace.select(direction="departure")
    assert any("15 of them are absent" in note for note in few.notes)
    one = upload(full.pick(["Cz"]))
    assert one.trace is not None
    assert (one.trace.select(stage="fusion")[0].weights == 1).all()


def test_low_rates_say_which_bands_are_lost() -> None:
    slow = cleaning.resample(cut(simulated.simulate(), 60), 80.0)
    result = upload(slow)
    assert any("gamma" in note for note in result.notes)
    assert result.outputs["de"].shape[1] == 4


def test_too_short_and_impossible_baselines() -> None:
    full = simulated.simulate()
    with pytest.raises(CrossfuseError, match=r"feature window|one window needs"):
        upload(cut(full, 1.5))
    with pytest.raises(CrossfuseError, match="6 s or longer"):
        upload(cut(full, 8))
    with pytest.raises(CrossfuseError, match="does not lie"):
        ask(baseline=(200.0, 260.0))
    with pytest.raises(CrossfuseError, match="no channel 'Q9'"):
        ask(bad=("Q9",))
    with pytest.raises(CrossfuseError, match="no sample"):
        ask({"sample": "../../etc/passwd"})


def test_a_rest_recording_gives_the_baseline() -> None:
    full = simulated.simulate()
    rest = cut(full, 60)
    task = replace(full, signal=full.signal[:, int(60 * full.rate) :])
    inputs = {
        "names": ("task.npz",),
        "contents": (as_npz(task),),
        "baseline_names": ("rest.npz",),
        "baseline_contents": (as_npz(rest),),
    }
    result = ask(inputs)
    assert result.outputs["baseline"] is None
    assert result.trace is not None
    assert result.trace.meta["baseline_from"] == "a recording of its own"
    np.testing.assert_allclose(
        result.outputs["score"][4:-4], sample().outputs["score"][24:-4], atol=1.0
    )


# --- cleaning --------------------------------------------------------------------------------


def test_steps_do_what_they_say_and_leave_the_original() -> None:
    full = cut(simulated.simulate(), 20)
    before = full.signal.copy()
    average = cleaning.reference(full, "average")
    np.testing.assert_allclose(average.signal.mean(0), 0, atol=1e-4)
    one = cleaning.reference(full, "Cz")
    assert np.abs(one.signal[full.names.index("Cz")]).max() == 0
    seconds = np.arange(full.signal.shape[1]) / full.rate
    hum = replace(full, signal=(full.signal + 40 * np.sin(100 * np.pi * seconds)).astype("f4"))
    cleaned = cleaning.notch(hum, 50)
    inside = slice(int(2 * full.rate), int(18 * full.rate))
    assert np.abs(cleaned.signal - full.signal)[:, inside].max() < 4
    narrow = cleaning.band_pass(full, 8, 12)
    true = mne.filter.filter_data(full.signal.astype(float), full.rate, 8, 12, verbose="error")
    np.testing.assert_allclose(narrow.signal, true, atol=0.02)
    np.testing.assert_array_equal(full.signal, before)
    for bad in ((0.0, 10.0), (20.0, 10.0), (1.0, 64.0)):
        with pytest.raises(CrossfuseError):
            cleaning.band_pass(full, *bad)
    with pytest.raises(CrossfuseError, match="mastoids"):
        cleaning.reference(full, "mastoids")


def test_interpolation_is_that_of_mne() -> None:
    full = cut(simulated.simulate(), 5)
    mine = cleaning.interpolate(replace(full, bad=("C3",)))
    info = mne.create_info(list(full.names), full.rate, "eeg")
    raw = mne.io.RawArray(full.signal * 1e-6, info, verbose="error")
    places = dict(zip(full.names, montage.positions(full.names).astype(float), strict=True))
    raw.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"))
    raw.info["bads"] = ["C3"]
    raw.interpolate_bads(origin=(0, 0, 0), verbose="error")
    row = full.names.index("C3")
    r = np.corrcoef(mine.signal[row], raw.get_data()[row])[0, 1]
    assert r > 0.98
    assert mine.bad == ()


def test_bad_channels_are_proposed() -> None:
    full = cut(simulated.simulate(), 20)
    signal = full.signal.copy()
    signal[3] *= 30
    assert tuple(cleaning.propose_bad(replace(full, signal=signal))) == (full.names[3],)
    assert not cleaning.propose_bad(full)


def test_resampling_keeps_a_sine() -> None:
    seconds = np.arange(5000) / 500
    wave = np.sin(2 * np.pi * 10 * seconds, dtype=np.float32)[None]
    slower = cleaning.resample(Recording(wave, 500.0, ("Cz",), ("eeg",)), 128.0)
    true = np.sin(2 * np.pi * 10 * np.arange(slower.signal.shape[1]) / 128)
    np.testing.assert_allclose(slower.signal[0, 64:-64], true[64:-64], atol=0.01)


def test_scales_are_compared_on_the_same_windows() -> None:
    """Decibels give almost one-hot rows, z-scores do not; every map is the model's own."""
    result = sample()
    assert result.trace is not None
    facts = result.outputs["saturation_by_scale"]
    assert facts["none"][0] > 0.5 > 2 * facts["baseline"][0]
    maps = result.trace.select(stage="scaling")
    assert {entry.direction for entry in maps} == set(eeg_maps.SCALINGS)
    for entry in maps[::17]:
        assert entry.weights.shape == (5, 19, 19)
        np.testing.assert_allclose(entry.weights.sum(-1), 1, atol=1e-5)
    own = result.trace.select(stage="fusion", direction="DE asks PSD")
    ours = result.trace.select(stage="scaling", direction="baseline")
    for entry in ours[::7]:
        same = next(one for one in own if one.layer == entry.layer)
        np.testing.assert_array_equal(entry.weights, same.weights)


def test_attention_over_time_is_the_extension() -> None:
    result = sample()
    assert result.trace is not None
    forth, back = result.trace.select(stage="time")
    assert forth.weights.shape == back.weights.shape == (5, 40, 40)
    np.testing.assert_allclose(forth.weights.sum(-1), 1, atol=1e-5)
    # The planted windows (28 to 31) resemble each other in theta, and no other window.
    assert forth.weights[0, 29, 28:32].sum() > 0.9


def test_long_recordings_are_shown_in_coarser_steps() -> None:
    random = np.random.default_rng(0)
    blocks = [torch.from_numpy(random.normal(size=(500, 4, 2, 3))).float() for _ in range(2)]
    times = np.stack([3.0 * np.arange(500), 3.0 * np.arange(1, 501)], 1)
    notes: list[str] = []
    axis, maps = eeg_maps.across_time(blocks, ("a", "b"), times, notes)
    assert len(axis) == 166
    assert maps[0].weights.shape == (2, 166, 166)
    assert "166 steps of 9 s" in notes[0]


def test_marking_a_channel_bad_can_be_taken_back() -> None:
    full = cut(simulated.simulate(), 40)
    signal = full.signal.copy()
    signal[3] *= 30
    loud = replace(full, signal=signal)
    before, marked = upload(loud), upload(loud, bad=("F4",))
    for result in (before, marked):  # the proposal stays, so that it can be refused again
        assert list(result.outputs["proposed"]) == ["F4"]
        assert "times the usual amplitude" in result.outputs["proposed"]["F4"]
    assert any("F4: interpolated" in note for note in marked.notes)
    assert np.abs(marked.outputs["cells"] - before.outputs["cells"]).max() > 0.1
    again = upload(loud)
    np.testing.assert_array_equal(again.outputs["cells"], before.outputs["cells"])


def test_traces_are_of_every_channel_of_the_file() -> None:
    full = cut(simulated.simulate(), 20)
    eog = 30 * np.random.default_rng(0).normal(size=(1, full.signal.shape[1])).astype(np.float32)
    wider = replace(
        full,
        signal=np.concatenate([full.signal, eog]),
        names=(*full.names, "EOG left"),
        kinds=(*full.kinds, "eog"),
        positions=None,
    )
    out = upload(wider).outputs
    assert out["signal_names"][-1] == "EOG left"
    assert out["signal_kinds"][-1] == "eog"
    values = out["signal"][-1] * out["signal_factors"][-1]
    np.testing.assert_allclose(values, eog[0], atol=0.01)


def test_one_channel_and_256() -> None:
    random = np.random.default_rng(0)
    for count in (1, 256):
        names = ("Cz",) if count == 1 else tuple(f"E{i}" for i in range(256))
        signal = 10 * random.normal(size=(count, 128 * 20)).astype(np.float32)
        result = upload(Recording(signal, 128.0, names, ("eeg",) * count))
        assert result.trace is not None
        assert "probability" not in result.outputs
        assert len(result.trace.geometries["channels"]) == count
        assert any("absent" in note for note in result.notes)


# --- the first view --------------------------------------------------------------------------


def test_the_stored_first_view_is_what_the_pipeline_answers() -> None:
    """Made again with ``python -m crossfuse.ui.eeg.first_view`` when this fails."""
    stored, fresh = first_view.load(), sample()
    assert stored.trace is not None
    assert fresh.trace is not None
    assert stored.trace.geometries == fresh.trace.geometries
    assert [e.id for e in stored.trace.maps] == [e.id for e in fresh.trace.maps]
    for one, other in zip(stored.trace.maps, fresh.trace.maps, strict=True):
        np.testing.assert_allclose(one.weights, other.weights, atol=0.01)
    assert set(stored.outputs) == set(fresh.outputs)
    np.testing.assert_allclose(
        stored.outputs["probability"], fresh.outputs["probability"], atol=1e-3
    )
    np.testing.assert_array_equal(stored.outputs["signal"], fresh.outputs["signal"])
    assert stored.notes == fresh.notes


def test_the_stored_view_answers_its_own_question_only() -> None:
    first = Request("mca_eeg", {"sample": "simulated"}, first_view.PLAIN)
    assert first_view.fits(first)
    assert not first_view.fits(replace(first, options={**first_view.PLAIN, "bad": ("Cz",)}))
    assert not first_view.fits(replace(first, inputs={"names": ("a",), "contents": (b"",)}))


# --- taking away -----------------------------------------------------------------------------


def test_exports(tmp_path: object) -> None:
    result = sample()
    assert result.trace is not None
    lines = weights_csv(result.trace).decode().splitlines()
    assert len(lines) == 1 + sum(entry.weights.size for entry in result.trace.maps)
    path = tmp_path / "predictions.txt"  # type: ignore[operator]
    path.write_bytes(annotations_text(result.outputs["times"], result.outputs["probability"]))
    read = mne.read_annotations(path)
    assert read.duration.sum() == pytest.approx(120)
    assert read.onset[0] == 0
    assert read.onset[-1] + read.duration[-1] == pytest.approx(120)
    assert any(text.startswith("task") for text in read.description)
    assert load(io.BytesIO(result.trace.to_bytes())) == result.trace


def test_envelope_bounds_every_sample() -> None:
    signal = np.random.default_rng(0).integers(-999, 999, (3, 10_001)).astype(np.int16)
    found = envelope(signal, 64)
    assert found.shape[1] <= 64
    width = -(-10_001 // 64)
    for bin_ in (0, 10, found.shape[1] - 1):
        part = signal[:, bin_ * width : (bin_ + 1) * width]
        np.testing.assert_array_equal(found[:, bin_, 0], part.min(1))
        np.testing.assert_array_equal(found[:, bin_, 1], part.max(1))


def test_explain_on_the_command_line(tmp_path: object, capsys: pytest.CaptureFixture) -> None:
    source = tmp_path / "a.npz"  # type: ignore[operator]
    source.write_bytes(as_npz(cut(simulated.simulate(), 30)))
    out = tmp_path / "trace.npz"  # type: ignore[operator]
    assert main(["explain", "mca_eeg", "--input", str(source), "--out", str(out)]) == 0
    assert "fusion/0/DE asks PSD" in capsys.readouterr().out
    assert load(out).model == "mca_eeg"
    missing = str(tmp_path / "none.edf")  # type: ignore[operator]
    assert main(["explain", "mca_eeg", "--input", missing, "--out", str(out)]) == 1
