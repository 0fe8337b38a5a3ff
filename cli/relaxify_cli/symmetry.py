"""`relaxify symmetry`: which Lie algebra do data obey."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from relaxify_cli.errors import shown
from relaxify_cli.options import Json
from relaxify_cli.progress import waiting
from relaxify_cli.reporting import console, say

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from relaxify.lconv import Symmetry

EXAMPLE = 'relaxify symmetry data.npz --labels Y --against "so(3)" --html report.html'


def symmetry(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Samples in rows: .csv, .tsv, .npy, .npz (arrays X and Y) or .parquet.")
    ],
    key: Annotated[
        str | None, typer.Option(metavar="NAME", help="Array of samples in an .npz file; X if not given.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="A,B,C", help="Columns that are coordinates; default: all but labels."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Columns, or an array, of labels; texts and whole numbers are classes."),
    ] = None,
    shape: Annotated[
        str | None, typer.Option(metavar="2,3", help="Shape of one sample, such as 2 vectors of 3, or 1,28,28 for an image.")
    ] = None,
    against: Annotated[
        list[str] | None, typer.Option("--against", metavar="NAME", help="Known algebra to compare with, such as so(3).")
    ] = None,
    distribution: Annotated[
        bool, typer.Option("--distribution", help="Find what the distribution keeps: the default without labels.")
    ] = False,
    second_moments: Annotated[
        bool, typer.Option("--second-moments", help="Report all that covariances allow (LC Theorem 1).")
    ] = False,
    center: Annotated[bool, typer.Option("--center", help="Remove the mean first: look for actions about it.")] = False,
    resamplings: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    as_json: Json = False,
    pictures: Annotated[
        Path | None, typer.Option(metavar="OUT.png", help="Draw generators and their flows, for square images.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="OUT.html", help="Write the report as a page.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what --html and --pictures name.")] = False,
) -> None:
    """Find the Lie algebra that samples, or what labels say of them, are symmetric under, and how sure that is."""
    import torch

    from relaxify.lconv import symmetries_of
    from relaxify.output import check_target, write_whole
    from relaxify_cli.samples import Choice, read_samples

    for path in (html, pictures):
        if path is not None:
            check_target(path, inputs=(data,), force=force)
    given = read_samples(data, Choice(key, _parts(columns), _parts(labels), _sizes(shape)))
    samples = torch.from_numpy(given.X)
    # images are vectors of their pixels; on (n, vectors, d) one action is common
    X = samples.flatten(1) if samples.ndim > 3 else samples
    Y = None if given.Y is None else torch.from_numpy(given.Y)
    known = _known(against or [], X.shape[-1])
    statistics: Literal["distribution", "second_moments"] | None = "second_moments" if second_moments else None
    if distribution:
        statistics = "distribution"
    with waiting("looking for symmetries"):
        found = symmetries_of(X, Y, statistics=statistics, center=center, resamplings=resamplings, seed=seed)
    if pictures is not None:
        from relaxify_cli.plots import save_figure

        save_figure(_draw(found, X), pictures, inputs=(data,), force=force, dpi=120)
    if html is not None:
        page = found.to_html(samples, known=known, header={"data": str(data)})
        write_whole(html, page.encode(), inputs=(data,), force=force)
    out = console()
    if as_json:
        say(found.to_json(known))
        return
    for line in found.lines(known):
        out.print(shown(line), soft_wrap=True, highlight=False)
    for path in (html, pictures):
        if path is not None:
            out.print(f"Wrote {shown(str(path))}.", soft_wrap=True)


def _parts(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",")) if text else ()


def _sizes(text: str | None) -> tuple[int, ...]:
    parts = _parts(text)
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise ValueError(f"--shape {text!r} is not a shape; write its sizes as in 2,3.")
    return tuple(map(int, parts))


def _known(names: list[str], d: int) -> dict[str, Any]:
    from relaxify.lconv.symmetry.by_name import named

    found = {}
    for name in names:
        try:
            found[name] = named(name, d)
        except ValueError as error:
            raise ValueError(f"--against {name}: {error}") from error
    return found


def _draw(found: Symmetry, X: Tensor) -> Figure:
    """Each of the first generators on the mean image, and where its flow takes it."""
    if X.ndim == 3:
        raise ValueError("--pictures: samples of two axes are vectors; give --shape 1,HEIGHT,WIDTH for images.")
    size = math.isqrt(X.shape[1])
    if size * size != X.shape[1] or size < 2:
        raise ValueError(f"samples of {X.shape[1]} numbers are not square images; leave --pictures out.")
    if not found.dimension:
        raise ValueError("there are no generators to draw; leave --pictures out.")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    image, count, times = X[0], min(4, found.dimension), (-1.0, -0.5, 0.0, 0.5, 1.0)
    figure = Figure(figsize=(1.6 * (len(times) + 1), 1.7 * count), layout="constrained")
    FigureCanvasAgg(figure)
    for row, index in zip(figure.subplots(count, len(times) + 1, squeeze=False), range(count), strict=True):
        moved = found.generators[index].to(image) @ image
        for axes, values, title in zip(
            row, (moved, *found.flow(image, times, index)), ("L x", *(f"t = {t:g}" for t in times)), strict=True
        ):
            axes.imshow(values.reshape(size, size).numpy(), cmap="RdBu_r" if title == "L x" else "gray")
            axes.set_title(title, fontsize="small")
            axes.set_axis_off()
    return figure
