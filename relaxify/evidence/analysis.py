"""What a model does on transformed inputs, as a whole: the evidence, what its layers promise, and where it breaks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn

from relaxify.evidence.adapter_claims import known_operations
from relaxify.evidence.breaks import Break, first_break
from relaxify.evidence.evidence import Evidence, unseen
from relaxify.evidence.full_size import FullSize
from relaxify.evidence.initial_zeros import assumptions
from relaxify.evidence.runs import Injections, Observer
from relaxify.evidence.verdict_runs import evidence_of
from relaxify.graph.inputs import Inputs
from relaxify.graph.recording import Recording
from relaxify.graph.weighted_calls import WeightedCall, weighted_calls
from relaxify.groups import Group
from relaxify.sites import Rejected, Site
from relaxify.verdicts.action_errors import InputAction
from relaxify.verdicts.draws import Draw
from relaxify.verdicts.measuring import Measurement
from relaxify.verdicts.twin import Twin
from relaxify.verdicts.verdict import Status

SAMPLES, MORE_SAMPLES = 2, 7
"""Inputs to run on; of a model that is measured to be sound, one may be enough."""


@dataclass(frozen=True)
class Analysis:
    """Runs of a model on x and on g x, and what they say.

    `known`: what adapters claim of executed operations; `calls`: the other linear operations; `broken`: the first
    operation from which on the output no longer transforms; `parting`: the node at which a run on transformed inputs first
    took another course, if one did; `observer`: what ran the model.
    """

    observer: Observer
    evidence: Evidence
    promises: Promises
    broken: Break | None
    known: Sequence[Site | Rejected]
    calls: Mapping[str, Sequence[WeightedCall]]
    parting: fx.Node | None = None


class Promises:
    """Whether the values at claimed layers transform as the layers' types say. Exact where fits lack samples."""

    def __init__(self, evidence: Evidence, sites: Sequence[Site]) -> None:
        self.read: dict[str, bool] = {}
        self._kept: dict[fx.Node, bool | None] = {}
        # the features of a convolution with pixels are patches, which no value is
        for site in (site for site in sites if site.map.convolution is None or not site.map.convolution.size):
            for data, result in promised(evidence.recording, site):
                for node, features, rep in (
                    (data, site.map.features_in, site.map.rep_in),
                    (result, site.map.features_out, site.map.rep_out),
                ):
                    if isinstance(node, fx.Node):
                        self._kept[node] = evidence.obeys(node, features, rep)
                if isinstance(data, fx.Node) and self._kept[data] is not None:
                    self.read[site.path] = self.read.get(site.path, True) and bool(self._kept[data])

    def __call__(self, node: fx.Node) -> bool | None:
        return self._kept.get(node)

    @property
    def are_kept(self) -> bool:
        """Whether all values that were seen transform as promised."""
        return False not in self._kept.values()


def promised(recording: Recording, site: Site) -> list[tuple[Any, Any]]:
    """What each call of a site read and made: nodes, if these are tensors."""
    calls = recording.calls.get(site.path, ())
    return [(call.argument(0, site.map.argument), call.result) for call in calls]


def asked_of(model: nn.Module, group: Group, claimed: Sequence[Site | Rejected], recording: Recording) -> set[fx.Node]:
    """The values that a plan rests on: what claimed layers and other linear operations read and make, and the outputs."""
    sites = [entry for entry in claimed if isinstance(entry, Site)]
    of_sites = [node for site in sites for pair in promised(recording, site) for node in pair]
    asked = {node for node in of_sites if isinstance(node, fx.Node)}
    calls = _operations(model, group, recording, claimed, unseen(recording.nodes))[1]
    asked |= {node for of_path in calls.values() for call in of_path for node in (call.contraction.data, call.node)}
    return asked | set(recording.nodes[-1].all_input_nodes)


def analyse_verdict(
    model: nn.Module,
    group: Group,
    inputs: Inputs,
    action: InputAction | None,
    claimed: Sequence[Site | Rejected],
    measured: Measurement,
    runs: Sequence[Recording],
    *,
    whole: bool = False,
) -> Analysis | None:
    """What the recorded `runs` of a sound verdict say; None if they leave open what is asked of them: then `analyse` tells.

    Asked for are the layers' promises, what the other linear operations read and make, and the outputs; if `whole`, each
    value.
    """
    if not measured.verdict.is_sound or measured.twin is None or measured.orbit is None:
        return None
    observer = Observer(model, group, inputs, action, twin=measured.twin)
    evidence = None if observer.images else evidence_of(group, runs, measured.orbit)
    if evidence is None:
        return None
    known, calls = _operations(model, group, evidence.recording, claimed, evidence.constants)
    promises = Promises(evidence, [entry for entry in claimed if isinstance(entry, Site)])
    asked = {node for of_path in calls.values() for call in of_path for node in (call.contraction.data, call.node)}
    asked |= {node for node in evidence.nodes[-1].all_input_nodes if promises(node) is None}
    is_told = promises.are_kept and all(evidence.of(node).kind in ("invariant", "linear") for node in asked)
    if not is_told or (whole and _leaves_values_open(evidence)):
        return None
    return Analysis(observer, evidence, promises, None, known, calls)


def analyse_nothing(
    model: nn.Module,
    group: Group,
    inputs: Inputs,
    action: InputAction | None,
    claimed: Sequence[Site | Rejected],
    twin: Twin,
) -> Analysis:
    """What is said of a model that does not run in float64: which operations it has; rounding hides how values transform."""
    observer = Observer(model, group, inputs, action, twin=twin)
    evidence = observer.unseen()
    known, calls = _operations(model, group, evidence.recording, claimed)
    return Analysis(observer, evidence, Promises(evidence, []), None, known, calls)


def _operations(
    model: nn.Module,
    group: Group,
    recording: Recording,
    claimed: Sequence[Site | Rejected],
    constants: Collection[fx.Node] = frozenset(),
) -> tuple[list[Site | Rejected], dict[str, list[WeightedCall]]]:
    """What adapters claim of executed operations, and the linear ones that nobody claims."""
    known = list(known_operations(model, group, recording))
    return known, weighted_calls(model, recording.nodes, [entry.path for entry in (*claimed, *known)], constants)


def analyse(
    model: nn.Module,
    group: Group,
    inputs: Inputs,
    action: InputAction | None,
    claimed: Sequence[Site | Rejected],
    *,
    training: bool = False,
    prepare: Callable[[nn.Module], None] | None = None,
    status: Status = Status.UNDECIDED,
    worst: tuple[Inputs, Draw] | None = None,
    twin: Twin | None = None,
    whole: bool = False,
) -> Analysis:
    """Run the model on as many inputs near the given ones as it takes to tell how its values transform.

    `prepare` is called with the copy that runs, or has been with the `twin`; `status` is what is known of its output,
    and `worst` the input and the element on which that was farthest off.
    If `whole`, each value is to be told of, and not linear operations and outputs alone.
    """
    observer = Observer(model, group, inputs, action, training=training, prepare=prepare, twin=twin)
    sites = [entry for entry in claimed if isinstance(entry, Site)]
    # a constant that was added is told by the difference of two inputs
    counts = [1, SAMPLES, MORE_SAMPLES] if status is Status.SOUND else [SAMPLES, MORE_SAMPLES]
    evidence, injected = observer.evidence(counts[0]), None
    full_size = observer.full_size(evidence, worst) if status is Status.BROKEN else None
    for samples in counts:
        evidence = observer.evidence(samples, evidence, injected)
        known, calls = _operations(model, group, evidence.recording, claimed, evidence.constants)
        for assumed in _zero_states(evidence, calls):
            other = observer.evidence(samples, injected=assumed)
            if first_break(other) is None:
                evidence, injected = other, assumed
                calls = _operations(model, group, other.recording, claimed, other.constants)[1]
                break
        promises = Promises(evidence, sites)
        full_size = full_size and replace(full_size, evidence=evidence)
        broken = first_break(evidence, promises, full_size)
        # more inputs give more samples for the fits; most models need no more
        undecided = any(_undecided(evidence, call) for of_path in calls.values() for call in of_path)
        if whole and samples < SAMPLES:
            undecided = undecided or _leaves_values_open(evidence)
        if _is_certain(evidence, broken, full_size) if broken else not undecided:
            break
    parting = full_size.parting if full_size and evidence.parting is None else evidence.parting
    return Analysis(observer, evidence, promises, broken, known, calls, parting)


def _is_certain(evidence: Evidence, broken: Break, full_size: FullSize | None) -> bool:
    """Whether what an operation reads moves in a known way, also on full-size elements, and what it makes does not."""
    made = [node for node in broken.node.all_input_nodes if node.op == "call_function" and node not in evidence.constants]
    is_known = full_size is not None and all(full_size.moves_in_a_known_way(node) for node in made)
    return is_known and evidence.of(broken.node).kind == "none"


def symmetrise(model: nn.Module, sites: Sequence[Site]) -> None:
    """Give ordinary convolutions the kernels that they are to have."""
    for site in sites:
        if site.map.convolution is not None:
            site.map.convolution.kernel.symmetrise(model.get_submodule(site.path))


def _zero_states(evidence: Evidence, calls: Mapping[str, Sequence[WeightedCall]]) -> Iterator[Injections]:
    read = [call.contraction.data for of_path in calls.values() for call in of_path]
    return assumptions(evidence, [node for node in read if evidence.of(node).kind == "zero"])


def _leaves_values_open(evidence: Evidence) -> bool:
    values = [node for node in evidence.nodes if node.op == "call_function" and node.meta.get("value") is not None]
    return any(evidence.of(node).kind == "undecided" for node in values)


def _undecided(evidence: Evidence, call: WeightedCall) -> bool:
    """Whether more samples could tell more about an operation's input or output."""
    return any(evidence.of(node).kind == "undecided" for node in (call.contraction.data, call.node))
