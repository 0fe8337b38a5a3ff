"""One sentence and an exit code for every error; each subcommand is imported when it is asked for, and not before."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer
from relaxed_states import relaxed_layer, save

from relaxify import UncheckedWarning
from relaxify.checkpoint import TargetExistsError
from relaxify.graph.inputs import InputsError
from relaxify_cli.errors import ThresholdError
from relaxify_cli.main import COMMANDS, run


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A subcommand `probe` whose behaviour a test may set."""
    module = types.ModuleType("relaxify_cli.probe")
    module.EXAMPLE = "relaxify probe"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "relaxify_cli.probe", module)
    monkeypatch.setattr("relaxify_cli.main.COMMANDS", (*COMMANDS, "probe"))
    return module


def returning(outcome: int | None) -> Callable[[], int | None]:
    return lambda: outcome


def raising(error: BaseException) -> object:
    def probe() -> None:
        raise error

    return probe


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ThresholdError("theta is 0.5, above 0; anneal it."), 1, "theta is 0.5, above 0; anneal it."),
        (ValueError("the thing is\nbad; fix it."), 2, "the thing is bad; fix it."),
        (FileNotFoundError(2, "No such file or directory", "a.pt"), 2, "a.pt: No such file or directory."),
        (OSError("disk trouble"), 2, "disk trouble"),
        (TargetExistsError(Path("a.pt")), 2, "a.pt exists; choose another name, or overwrite it with --force."),
        (
            InputsError(TypeError("no such argument\nat all"), "float64"),
            2,
            "the model does not run on the inputs in float64 (TypeError: no such argument); give the arguments of",
        ),
        (
            ModuleNotFoundError("No module named 'e3nn'"),
            2,
            "No module named 'e3nn'; install what is missing (`relaxify doctor`",
        ),
        (
            RuntimeError("oops"),
            2,
            "unexpected RuntimeError: oops; this looks like a fault of relaxify: --debug shows where.",
        ),
        (KeyError("x"), 2, "unexpected KeyError: 'x'"),
        (ValueError("red \x1b[31malert"), 2, r"red \x1b[31malert"),
        (KeyboardInterrupt(), 130, "interrupted."),
        (typer.Abort(), 130, "interrupted."),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_errors_are_one_sentence_with_an_exit_code(
    error: BaseException, code: int, text: str, command: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    command.probe = raising(error)  # type: ignore[attr-defined]
    assert run(["probe"]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"relaxify: {text}")
    assert shown.err.count("\n") == 1
    assert "Traceback" not in shown.err


@pytest.mark.parametrize("arguments", [["--debug", "probe"], ["probe", "--debug"]])
def test_debug_lets_the_error_through(arguments: list[str], command: types.ModuleType) -> None:
    command.probe = raising(ValueError("shown with its traceback"))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="shown with its traceback"):
        run(arguments)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["--nonsense"], "No such option: --nonsense"),
        (["convert"], "Missing argument 'IN'"),
        (["convert", "in.pt"], "give one of --output OUT and --check OUT"),
        (["convert", "in.pt", "-o", "out.pt", "--max-theta", "much"], "Invalid value for '--max-theta'"),
        (["convert", "in.pt", "-o", "out.pt", "more"], "unexpected extra argument"),
    ],
)
def test_a_wrong_command_line_is_bad_input(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    shown = capsys.readouterr()
    assert text in shown.err
    assert shown.err.startswith("relaxify: ")
    assert shown.err.count("\n") == 1


def test_what_a_command_returns_or_exits_with_is_the_exit_code(command: types.ModuleType) -> None:
    for outcome, code in ((None, 0), (1, 1)):
        command.probe = returning(outcome)  # type: ignore[attr-defined]
        assert run(["probe"]) == code
    command.probe = raising(typer.Exit(1))  # type: ignore[attr-defined]
    assert run(["probe"]) == 1


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"relaxify {importlib.metadata.version('relaxify')}\n"
    assert run(["convert", "--help"]) == 0
    assert "--max-theta" in capsys.readouterr().out


def test_convert_needs_no_library_but_torch_and_no_other_command() -> None:
    """Its help is shown where e3nn, escnn and matplotlib cannot be imported and `demo` and `plan` are broken."""
    program = (
        "import sys\n"
        "for name in ('e3nn', 'escnn', 'matplotlib', 'relaxify_cli.demo', 'relaxify_cli.plan'): sys.modules[name] = None\n"
        "import relaxify.checkpoint\n"
        "from relaxify_cli.main import run\n"
        "sys.exit(run(['convert', '--help']) or run(['diff', '--help']))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("start", [["-m", "relaxify_cli"], ["-c", "from relaxify_cli.main import main; main()"]])
def test_the_exit_code_leaves_the_process(start: list[str]) -> None:
    result = subprocess.run([sys.executable, *start, "nonsense"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("relaxify: No such command 'nonsense'")


def test_what_is_warned_of_is_said_once_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Records of a later minor version, in two terms."""
    state = {}
    for name in ("a.", "b."):
        state |= relaxed_layer().state(name)
        record = bytes(state[f"{name}relaxation._extra_state"].numpy()).replace(b'"relaxify/1"', b'"relaxify/1.3"')
        state[f"{name}relaxation._extra_state"] = torch.frombuffer(bytearray(record), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run(["convert", str(save(state, tmp_path / "in.pt")), "-o", str(tmp_path / "out.pt")]) == 0
    said = capsys.readouterr().err
    assert said == "relaxify: records have format 'relaxify/1.3': what it adds is ignored; upgrade relaxify.\n"


def test_warnings_are_in_the_command_line_s_words(command: types.ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    def probe() -> None:
        warnings.warn(UncheckedWarning("only layers one by one; pass example_inputs=(...)"), stacklevel=1)

    command.probe = probe  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run(["probe"]) == 0
    assert capsys.readouterr().err == "relaxify: only layers one by one; give --inputs.\n"
