"""LC sec. 4 on data at hand: every model on every variant, with the same seeds, splits, steps and optimiser for all.

There is no augmentation, no tuning and no model selection: what counts is the test accuracy after the last step.

    python -m relaxify_examples.lconv.run --out DIR
"""

import json
import math
import platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import scipy.stats
import torch
from torch.nn import functional as F

from relaxify.output import write_whole
from relaxify_examples.lconv.data import VARIANTS, Images, Split, split
from relaxify_examples.lconv.models import MODELS, parameters


@dataclass(frozen=True)
class Settings:
    """The budget, the same for all models."""

    seeds: int = 5
    epochs: int = 60
    batch_size: int = 64
    learning_rate: float = 1e-3
    layers: int = 1
    train_share: float = 0.8
    models: tuple[str, ...] = tuple(MODELS)
    variants: tuple[str, ...] = VARIANTS


@dataclass(frozen=True)
class Run:
    """One training: the share of test images classified rightly after the last step."""

    dataset: str
    variant: str
    model: str
    layers: int
    seed: int
    accuracy: float
    train_accuracy: float
    parameters: int
    seconds: float


def runs(dataset: str, images: Images, settings: Settings = Settings()) -> Iterator[Run]:
    """Train everything, a seed at a time, so that what is done so far is always paired."""
    for seed in range(settings.seeds):
        for variant in VARIANTS:
            if variant not in settings.variants:
                continue
            data = split(images, variant, seed, train_share=settings.train_share)
            for name in settings.models:
                yield train(dataset, variant, name, data, seed, settings)


def train(dataset: str, variant: str, name: str, data: Split, seed: int, settings: Settings) -> Run:
    """One model from its random start to its test."""
    torch.manual_seed(seed)
    channels, height, width = data.train_x.shape[1:]
    model = MODELS[name]((channels, height, width), data.classes, settings.layers)
    optimizer = torch.optim.Adam(model.parameters(), settings.learning_rate)
    # the order of batches does not depend on what a model drew for its weights
    order = torch.Generator().manual_seed(seed)
    start = time.perf_counter()
    for _ in range(settings.epochs):
        for batch in torch.randperm(len(data.train_x), generator=order).split(settings.batch_size):
            loss = F.cross_entropy(model(data.train_x[batch]), data.train_y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    seconds = time.perf_counter() - start
    accuracies = [_accuracy(model, x, y) for x, y in ((data.test_x, data.test_y), (data.train_x, data.train_y))]
    return Run(dataset, variant, name, settings.layers, seed, *accuracies, parameters(model), seconds)


@torch.no_grad()
def _accuracy(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    right = sum(int((model(part).argmax(1) == truth).sum()) for part, truth in zip(x.split(500), y.split(500), strict=True))
    return right / len(x)


@dataclass(frozen=True)
class Paired:
    """The mean difference of two models over the same seeds, and its 95 % interval (Student's t)."""

    difference: float
    low: float
    high: float
    seeds: int

    @property
    def verdict(self) -> str:
        return "better" if self.low > 0 else "worse" if self.high < 0 else "no clear difference"


def paired(results: list[Run], dataset: str, variant: str, layers: int, first: str, second: str) -> Paired:
    """How much better `first` is than `second`, in accuracy, on what both ran. ValueError with fewer than two seeds."""
    a, b = (_by_seed(results, dataset, variant, layers, name) for name in (first, second))
    differences = [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]
    if len(differences) < 2:
        raise ValueError(f"{first} and {second} share {len(differences)} seeds on {dataset}, {variant}; run at least two.")
    mean = statistics.fmean(differences)
    half = scipy.stats.t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
    return Paired(mean, mean - half, mean + half, len(differences))


def _by_seed(results: list[Run], dataset: str, variant: str, layers: int, model: str) -> dict[int, float]:
    key = (dataset, variant, layers, model)
    return {run.seed: run.accuracy for run in results if (run.dataset, run.variant, run.layers, run.model) == key}


def table(results: list[Run]) -> str:
    """Markdown: accuracies as mean and standard deviation, and L-conv's paired differences to each model below them."""
    lines = []
    for dataset, layers in sorted({(run.dataset, run.layers) for run in results}):
        here = [run for run in results if (run.dataset, run.layers) == (dataset, layers)]
        variants = [variant for variant in VARIANTS if any(run.variant == variant for run in here)]
        names = [name for name in MODELS if any(run.model == name for run in here)]
        seeds = len({run.seed for run in here})
        lines += [f"**{dataset}, {layers} hidden layer{'s' if layers > 1 else ''}, {seeds} paired seeds**", ""]
        lines += [f"| model | parameters | {' | '.join(variants)} |", "|---|---|" + "---|" * len(variants)]
        for name in names:
            size = next(run.parameters for run in here if run.model == name)
            cells = [_cell(_by_seed(here, dataset, variant, layers, name)) for variant in variants]
            lines.append(f"| {name} | {size:,} | {' | '.join(cells)} |")
        for name in names:
            if name != "L-conv" and "L-conv" in names and seeds > 1:
                cells = [_difference(paired(here, dataset, variant, layers, "L-conv", name)) for variant in variants]
                lines.append(f"| *L-conv minus {name}* | | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(accuracies: dict[int, float]) -> str:
    values = list(accuracies.values())
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"


def _difference(outcome: Paired) -> str:
    return f"{outcome.difference:+.3f} [{outcome.low:+.3f}, {outcome.high:+.3f}]"


def save(results: list[Run], settings: Settings, path: Path) -> None:
    """Everything measured, as JSON, written whole or not at all."""
    environment = {"torch": torch.__version__, "python": platform.python_version(), "threads": torch.get_num_threads()}
    text = json.dumps({"settings": asdict(settings), "runs": [asdict(run) for run in results], "environment": environment})
    write_whole(path, text.encode(), force=True)


def load(path: Path) -> list[Run]:
    """The runs that `save` wrote."""
    return [Run(**entry) for entry in json.loads(path.read_text())["runs"]]
