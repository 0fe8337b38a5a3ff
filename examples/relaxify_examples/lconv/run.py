"""Run LC sec. 4's experiment, print the table, and write results.json and figure.png.

python -m relaxify_examples.lconv.run --out DIR [--sizes 8 16] [--layers 1 2] [--mnist IMAGES LABELS] [--cifar FILE ...]
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from relaxify_examples.lconv.data import VARIANTS, Images, cifar, digits, idx
from relaxify_examples.lconv.experiment import Run, Settings, runs, save, table
from relaxify_examples.lconv.models import MODELS


def main() -> None:
    arguments = _parser().parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        seeds=arguments.seeds,
        epochs=arguments.epochs,
        learning_rate=arguments.learning_rate,
        train_share=arguments.train_share,
        models=tuple(arguments.models),
        variants=tuple(arguments.variants),
    )
    results: list[Run] = []
    for layers in arguments.layers:
        for name, images in _datasets(arguments).items():
            for run in runs(name, images, replace(settings, layers=layers)):
                results.append(run)
                print(f"{run.dataset:18} {run.variant:22} {run.model:22} seed {run.seed}: {run.accuracy:.4f}", flush=True)
                save(results, settings, arguments.out / "results.json")
    print(table(results))
    from relaxify_examples.lconv.figure import draw

    draw(results, arguments.out / "figure.png")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="L-conv against its baselines (LC sec. 4).")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--train-share", type=float, default=0.8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="*", default=[8, 16], help="digits of size x size pixels")
    parser.add_argument("--layers", type=int, nargs="*", default=[1], choices=[1, 2])
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--mnist", type=Path, nargs=2, metavar=("IMAGES", "LABELS"), help="also for FashionMNIST")
    parser.add_argument("--cifar", type=Path, nargs="*", default=[], help="binary batches of CIFAR10")
    parser.add_argument("--cifar100", type=Path, nargs="*", default=[], help="the binary train.bin of CIFAR100")
    return parser


def _datasets(arguments: argparse.Namespace) -> dict[str, Images]:
    found = {f"digits {size} x {size}": digits(size) for size in arguments.sizes}
    if arguments.mnist:
        found[arguments.mnist[0].parent.name or "MNIST"] = idx(*arguments.mnist)
    if arguments.cifar:
        found["CIFAR10"] = cifar(arguments.cifar)
    if arguments.cifar100:
        found["CIFAR100"] = cifar(arguments.cifar100, fine=True)
    return found


if __name__ == "__main__":
    main()
