"""The command line: what it lists, what it refuses, what it prints."""

from __future__ import annotations

import argparse
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from crossfuse import cli, doctor, registry, trace
from crossfuse.engine.messages import Request, Result
from crossfuse.errors import CrossfuseError
from crossfuse.geometry import Tokens
from crossfuse.trace import AttentionMap, Trace


class Echo:
    """A pipeline and a recipe in one, small enough to see through."""

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--text", required=True)

    @staticmethod
    def request_from_arguments(arguments: argparse.Namespace) -> Request:
        if not arguments.text:
            raise CrossfuseError("The text is empty; give at least one word.")
        return Request("echo", {"text": arguments.text})

    @staticmethod
    def run(request: Request, context: object) -> Result:
        words = tuple(request.inputs["text"].split())
        weights = np.full((1, len(words), len(words)), 1 / len(words))
        entry = AttentionMap("only", 0, "words->words", "words", "words", weights)
        return Result(Trace("echo", {"words": Tokens(words)}, (entry,)), notes=("a note",))

    @staticmethod
    def add_train_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--epochs", type=int, default=1)

    @staticmethod
    def train(arguments: argparse.Namespace) -> None:
        print(f"trained for {arguments.epochs}")

    add_evaluate_arguments = add_train_arguments

    @staticmethod
    def evaluate(arguments: argparse.Namespace) -> dict:
        return {"accuracy": {"mean": 0.5, "seeds": 3}}


@pytest.fixture(autouse=True)
def _echo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "echo_model", Echo)
    entry = registry.ModelEntry("echo", "Echo", "none", "echo_model:X", "echo_model", "echo_model")
    monkeypatch.setitem(registry.MODELS, "echo", entry)


def test_explain_writes_a_trace(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "trace.npz"
    assert cli.main(["explain", "echo", "--text", "a dog", "--out", str(target)]) == 0
    assert "only/0/words->words" in capsys.readouterr().out
    assert trace.load(target).geometries["words"] == Tokens(("a", "dog"))


def test_bad_input_is_one_sentence_and_status_1(tmp_path, capsys) -> None:
    assert cli.main(["explain", "echo", "--text", "", "--out", str(tmp_path / "t.npz")]) == 1
    assert capsys.readouterr().err == "crossfuse: The text is empty; give at least one word.\n"


def test_train_and_evaluate(capsys) -> None:
    assert cli.main(["train", "echo", "--epochs", "4"]) == 0
    assert "trained for 4" in capsys.readouterr().out
    assert cli.main(["evaluate", "echo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"accuracy": {"mean": 0.5, "seeds": 3}}
    assert cli.main(["evaluate", "echo"]) == 0
    assert "accuracy.mean" in capsys.readouterr().out


def test_models_lists_what_is_registered(capsys) -> None:
    assert cli.main(["models", "--json"]) == 0
    assert {m["name"] for m in json.loads(capsys.readouterr().out)} == set(registry.MODELS)
    assert cli.main(["models"]) == 0
    assert "echo: Echo" in capsys.readouterr().out


def test_an_unknown_name_lists_the_known_ones(capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(["explain", "nothing"])
    assert "echo" in capsys.readouterr().err


def test_the_kernels_benchmark_prints_its_rows(capsys) -> None:
    assert cli.main(["bench", "attention", "--runs", "1", "--tokens", "96", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    wanted = {"case", "tokens", "peer", "time_ratio", "memory_ratio", "max_error"}
    assert all(wanted <= set(row) for row in rows)
    assert max(row["max_error"] for row in rows) < 1e-5
    assert cli.main(["bench", "attention", "--runs", "1", "--tokens", "96"]) == 0
    assert "time_ratio" in capsys.readouterr().out


def test_the_doctor_tells_the_truth(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(doctor, "_try_model", lambda name: {"ok": True, "seconds": 0.1})
    monkeypatch.setattr(doctor, "SYSTEM_LIBRARIES", {})
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["packages"]["torch"]
    monkeypatch.setattr(doctor, "SYSTEM_LIBRARIES", {"libnone.so.7": "libnone7"})
    assert cli.main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "sudo apt-get install libnone7" in printed


def test_the_doctor_reports_a_broken_model(monkeypatch: pytest.MonkeyPatch) -> None:
    result = doctor._try_model("echo")
    assert not result["ok"]
    assert "X" in result["error"]
    assert doctor._version("no-such-package") is None
    monkeypatch.setattr(doctor, "sys", SimpleNamespace(platform="darwin"))
    assert doctor.missing_system_libraries() == {}


def test_serve_starts_the_app_on_this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def run(command: list[str], cwd: object) -> SimpleNamespace:
        started.append(command)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(cli.subprocess, "run", run)
    assert cli.main(["serve", "--port", "9000"]) == 0
    assert started[0][1:4] == ["-m", "streamlit", "run"]
    assert started[0][4].endswith("app.py")
    assert started[0][5:] == ["--server.port=9000", "--server.address=127.0.0.1"]


def test_serve_says_where_the_app_would_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "BENCHMARKS", tmp_path / "benchmarks")
    assert cli.main(["serve"]) == 1
    assert "checkout" in capsys.readouterr().err


def test_every_benchmark_has_the_same_two_parts() -> None:
    for name in cli._benchmarks():
        source = (cli.BENCHMARKS / f"{name}.py").read_text(encoding="utf-8")
        for part in ("def add_arguments(", "def measure("):
            assert part in source, f"{name} lacks {part}"
