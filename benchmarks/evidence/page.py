"""docs/evidence.md, written from the results alone: a figure that is not in them cannot be on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from benchmarks.evidence.comparing import Comparison
from benchmarks.evidence.findings import Finding, Findings
from benchmarks.evidence.sections import section, variants
from benchmarks.evidence.systems import SYSTEMS
from benchmarks.evidence.verdicts import counted
from benchmarks.evidence.ways import WAYS
from benchmarks.evidence.when import when

RULES = """\
## The rules

- **Pairs.** The runs of a seed share their initial weights, data, and batches, in whatever way they are trained. Adam's
  learning rate falls to 0 as a cosine. What is tested is the projected model after the last step ("constant, kept": the
  relaxed one): nothing is selected.
- **Every way is tuned alike.** Its learning rate is the best of a sweep on other seeds. A sweep goes on beyond its ends
  until the best rate lies between two that are worse, four rates further at most ("edge": they did not do). "plain" alone
  is not tuned, and has the rate of earlier work.
- **Equal compute.** The processor time of a relaxed step over that of a plain one is measured in relaxify's ordinary loop.
  A plain way of equal compute takes as many more steps, and has a sweep of its own: one for terms that act over the first
  half, one for terms that act to the last step.
- **Batch norms** are recalibrated on the training inputs, after projecting, and so are those of plain training.
- **Intervals** are t intervals of the mean paired difference, of 95 %. A verdict is "better" or "worse" if the difference to
  *each* plain training (tuned, of equal compute, and untuned where that was run: a sweep is noisy, and may choose a worse
  rate) has that sign by a wider interval, of {level:.2f} %: Bonferroni's correction for the {comparisons}
  comparisons of this page. "No difference" means that none was shown, not that there is none.
- Models of one way are trained side by side, by `torch.func.vmap` over stacked parameters; a test compares that with
  relaxify's own loop, with which it agrees to rounding (RECM to a part in a thousand: its |f_e(x)| is a step older).
  Wide networks and convolutions, which gain nothing by that, are trained in that loop.
  "largest share" is the largest mean of |theta W x| / |f_e(x)|.
"""

NOT_RUN = """\
Not run under these rules: the sizes of the papers (VN-PointNet and VN-DGCNN at a width of 64 and 1,024 points, 3,000
trajectories for 1,000 epochs, whole trajectories of molecules in double precision), ModelNet40 (`--modelnet40 FOLDER` reads
its files), molecules by density functional theory (MD17's files are read), smoke that grows by scales, and the networks
beside RSteer ([earlier runs](smoke.md)). In networks as small as these an operation costs more to start than to compute: a
relaxed step is dearer beside a plain one than in [larger ones](performance.md), and equal compute is a stricter rival.

`python -m benchmarks.evidence [SYSTEM] [--seeds N] [--small]` goes on where it was, and `--docs` writes this page.
"""


def page(systems: Sequence[Findings]) -> str:
    """The whole page."""
    return "\n".join(
        [
            "# Does relaxing help? The evidence\n",
            "<!-- written by `python -m benchmarks.evidence --docs` from benchmarks/results/evidence -->\n",
            headline(systems) + "\n",
            _rules(max((each.comparisons for each in systems), default=1) or 1),
            *_sections(systems),
            when(systems),
            _was_not_run(systems),
        ]
    )


def _sections(systems: Sequence[Findings]) -> Iterator[str]:
    """Each system's, and below it its variants; a variant whose system was not run stands for itself."""
    begun = {each.runs.system.name for each in systems}
    for each in systems:
        if each.runs.system.of not in begun:
            yield section(each)
            if varied := [other for other in systems if other.runs.system.of == each.runs.system.name]:
                yield variants(varied)


def _rules(comparisons: int) -> str:
    return RULES.format(comparisons=comparisons, level=100 - 5 / comparisons)


def headline(systems: Sequence[Findings]) -> str:
    """What is better than both plain ways, if anything, and how many are worse than which."""
    judged = [(each, found) for each in systems for found in each.judged]
    kept = [(each, found) for each in systems for found in each.kept]
    if not judged and not kept:
        return "No relaxed training has been run beside the plain ones yet."
    return " ".join(filter(None, [_of_projected(judged), _of_kept(kept)]))


def _of_projected(judged: Sequence[tuple[Findings, Finding]]) -> str:
    if not judged:
        return ""
    wins = [_said(each, found) for each, found in judged if found.verdict == "better"]
    count = counted(len(judged), "relaxed training")
    ways, places = {found.way for _, found in judged}, {each.runs.system.name for each, _ in judged}
    scope = f"{counted(len(ways), 'way')}, {counted(len(places), 'system')}"
    found = (
        f"**Better than both tuned plain training and plain training of equal compute: {len(wins)} of {count} ({scope})**: "
        f"{'; '.join(wins)}."
        if wins
        else f"**None of {count} ({scope}) is better than both tuned plain training and plain training of equal compute.**"
    )
    tuned = _tally(judged, lambda found: found.tuned)
    compute = _tally(judged, lambda found: found.compute)
    return f"{found} Beside tuned plain training of as many steps {tuned}; beside plain training of equal compute {compute}."


def _of_kept(kept: Sequence[tuple[Findings, Finding]]) -> str:
    """Those are another thing than what they are compared with, which is said."""
    wins = [_said(each, found) for each, found in kept if found.verdict == "better"]
    count = counted(len(kept), "such training")
    told = f"{len(wins)} of {count} {'is' if len(wins) == 1 else 'are'} better than both" + (
        f": {'; '.join(wins)}" if wins else ""
    )
    return (
        f"Beside these, terms that are kept make a model with more parameters, which is no longer equivariant: {told}."
        if kept
        else ""
    )


def _tally(judged: Sequence[tuple[Findings, Finding]], of: Callable[[Finding], Comparison | None]) -> str:
    found = Counter(comparison.verdict for _, finding in judged if (comparison := of(finding)) is not None)
    return f"{found['better']} are better, {found['worse']} worse, and {found['no difference']} show no difference"


def _said(each: Findings, found: Finding) -> str:
    system = each.runs.system
    return (
        f"{found.way} on {system.within_a_sentence}, by {found.tuned:{system.form}} of {system.column} beside tuned plain "
        f"training and {found.compute:{system.form}} beside equal compute"
    )


def _was_not_run(systems: Sequence[Findings]) -> str:
    """Ways in words, the cost of all runs, and systems and ways that are not on the page."""
    hours = sum(each.cpu_hours for each in systems)
    rest = _not_begun(systems)
    ways = "\n".join(f"- {name}: {how.what}" for name, how in WAYS.items())
    return f"## The ways, and what was not run\n\n{ways}\n\nAll of it took {hours:.2f} CPU-hours.{rest}\n\n{NOT_RUN}"


def _not_begun(systems: Sequence[Findings]) -> str:
    begun = {each.runs.system.name for each in systems}
    rest = [system.within_a_sentence for name, system in SYSTEMS.items() if name not in begun]
    return f" Not begun: {'; '.join(rest)}." if rest else ""
