"""What `relaxify convert` does with a file that it has written or is shown: loads it, runs it, and compares it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from torch import nn

from relaxify.checkpoint import Checked, Conversion, LoadError, ThetaError, check_converted, check_loads
from relaxify_cli.diff import print_comparison
from relaxify_cli.errors import ThresholdError, shown
from relaxify_cli.loading import build_model, irreps_of, load_action, load_inputs
from relaxify_cli.reporting import console

if TYPE_CHECKING:
    from relaxify.relaxation.verifying import Verification

SHOWN = 20


@dataclass
class Verifier:
    """Loads a converted file into the model that a factory makes and, if it has inputs, runs that.

    ThresholdError if the file is not as it should be.
    """

    spec: str
    make: Callable[[], nn.Module]
    inputs: Any
    options: dict[str, Any]
    found: tuple[Verification, ...] = field(default=())

    @classmethod
    def of(cls, spec: str | None, inputs: str | None, *, prefix: str, **acting: Any) -> Verifier | None:
        """None if nothing is to be verified. ValueError for options that lack others, before anything is read."""
        if inputs is None and (given := [name for name, value in acting.items() if value]):
            option = given[0].replace("_", "-")
            raise ValueError(f"--{option} says how the group acts on what the model takes or gives; give --inputs too.")
        if spec is None and inputs is not None:
            raise ValueError("--inputs are run through the model of --verify PKG.MOD:FACTORY; give that too.")
        if spec is None:
            return None
        build_model(spec)
        options = {
            "prefix": prefix,
            "input_action": load_action(acting["action"]),
            "input_irreps": irreps_of(acting["irreps"]),
            "output_action": load_action(acting["output_action"]),
        }
        return cls(spec, lambda: build_model(spec), None if inputs is None else load_inputs(inputs), options)

    def __call__(self, path: Path, conversion: Conversion) -> None:
        try:
            check_loads(self.make(), path, conversion)
        except LoadError as error:
            raise ThresholdError(
                f"{error.what} does not load into {error.model} ({error.reason}), so {_refused(path, conversion)}; give the "
                "factory of the plain model."
            ) from error
        if self.inputs is not None:
            self._run(path, conversion)

    def _run(self, path: Path, conversion: Conversion) -> None:
        from relaxify.relaxation.verifying import verify

        self.found = verify(self.make, path, conversion, self.inputs, **self.options)
        if not all(each.is_sound for each in self.found):
            self.print(console())
            raise ThresholdError(f"{_reason(self.found)}, so {_refused(path, conversion)}.")

    def print(self, out: Console) -> None:
        """What was found."""
        out.print(f"Loads with strict=True into {shown(self.spec)}.")
        for each in self.found:
            _print(each, out)


def _refused(path: Path, conversion: Conversion) -> str:
    return f"{path} fails" if path == conversion.target else f"{conversion.target} was not written"


def _reason(found: tuple[Verification, ...]) -> str:
    failed = next(each for each in found if not each.is_sound)
    name = ".".join(map(str, failed.where))
    of = f"{failed.model} with {name}" if name else failed.model
    for verdict in failed.verdicts:
        if not verdict.is_sound:
            return f"{of} is not found to commute with {verdict.group} ({verdict.status.value}: {verdict.why})"
    return f"{of} does not give what the projected relaxed model gives (they differ by {failed.difference:.1e})"


def _print(each: Verification, out: Console) -> None:
    if each.where:
        out.print(f"[bold]{shown('.'.join(map(str, each.where)))}[/bold]")
    for verdict in each.verdicts:
        does = "[green]Commutes[/green] with" if verdict.is_sound else "[bold red]Is not found to commute[/bold red] with"
        out.print(f"{does} {shown(verdict.group)}: relative error {verdict.error.largest:.1e} at most.")
        out.print(f"  {shown(verdict.told)}")
    if each.difference is None:
        out.print(f"The relaxed model could not be made to compare with: {shown(each.unmade or '')}")
        return
    told = "[green]Equal[/green] to" if each.is_equal else "[bold red]Not equal[/bold red] to"
    out.print(
        f"{told} the relaxed model, projected: outputs differ by {each.difference:.1e} of their size, at most "
        f"{each.tolerance:.0e} is rounding."
    )


def check_file(source: Path, target: Path, options: dict[str, Any], verifier: Verifier | None) -> None:
    """Say whether `target` is what `source` converts to. ThresholdError if not, or if it fails what is asked of it else."""
    try:
        checked = check_converted(source, target, **options)
    except ThetaError as error:
        raise ThresholdError(str(error)) from error
    out = console()
    if not checked.is_equal:
        print_comparison(replace(checked.comparison, a=Path(f"{source}, converted")), out, most=SHOWN)
        raise ThresholdError(_unlike(checked, source, target))
    same = checked.comparison.same
    how = f"({checked.conversion.mode}; {same:,} tensors are the same)"
    out.print(f"{shown(str(target))} is what {shown(str(source))} converts to {how}.", soft_wrap=True)
    if verifier is not None:
        verifier(target, checked.conversion)
        verifier.print(out)


def _unlike(checked: Checked, source: Path, target: Path) -> str:
    found, mode = checked.comparison, checked.conversion.mode
    names = [*(each.key for each in found.differing), *found.only_a, *found.only_b, *checked.rest]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{target} is not what {source} converts to with --mode {mode}: first {names[0]}{more}; convert it again."
