"""`relaxify symmetry`: which Lie algebra do data obey."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relaxify_cli.errors import shown
from relaxify_cli.options import Json
from relaxify_cli.progress import waiting
from relaxify_cli.reporting import console, say

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from relaxify.lconv import FamilySymmetry, Symmetry

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
        typer.Option(metavar="NAME", help="Columns, or an array, of labels; texts and a few whole numbers are classes."),
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
    family: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Look among these generators only, at any size: rotation,translations,scaling,... or affine for images, "
            "translation for signals; or learn low-rank, grid (weights of each pixel) or graph (of --edges) ones.",
        ),
    ] = None,
    edges: Annotated[str | None, typer.Option(metavar="NAME", help="Array (2, edges) of --family graph.")] = None,
    affine: Annotated[
        bool, typer.Option("--affine", help="With labels: rows are points, which may be moved as well (e(n), similarities).")
    ] = False,
    pairs: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Array of what became of each sample: find the flow, wherever pixels are."),
    ] = None,
    center: Annotated[bool, typer.Option("--center", help="Remove the mean first: look for actions about it.")] = False,
    resamplings: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 200,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of the bootstrap.")] = 0,
    as_json: Json = False,
    pictures: Annotated[
        Path | None, typer.Option(metavar="OUT.png", help="Draw generators and their flows, for square images.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="OUT.html", help="Write the report as a page.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what --html and --pictures name.")] = False,
) -> None:
    """Find the Lie algebra that samples, or what labels say of them, are symmetric under, and how sure that is."""
    from relaxify.output import check_target, write_whole
    from relaxify_cli.discovering import Asked, find
    from relaxify_cli.samples import Choice, read_samples

    asked = Asked(
        family, edges, affine, pairs, distribution=distribution, second_moments=second_moments, center=center,
        resamplings=resamplings, seed=seed, against=tuple(against or ()),
    )  # fmt: skip
    asked.check(labels)
    for path in (html, pictures):
        if path is not None:
            check_target(path, inputs=(data,), force=force)
    of_rows = (pairs,) if pairs else _parts(labels)
    choice = Choice(key, _parts(columns), of_rows, _sizes(shape), "--pairs" if pairs else "--labels")
    given = read_samples(data, choice)
    with waiting("looking for symmetries"):
        found, samples, known = find(asked, given, data)
    if pictures is not None:
        from relaxify_cli.plots import save_figure

        save_figure(_draw(found, samples), pictures, inputs=(data,), force=force, dpi=120)
    if html is not None:
        page = found.to_html(samples, header={"data": str(data)}, **known)
        write_whole(html, page.encode(), inputs=(data,), force=force)
    out = console()
    if as_json:
        say(found.to_json(**known))
        return
    for line in found.lines(**known):
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


def _draw(found: Symmetry | FamilySymmetry, samples: Tensor) -> Figure:
    """Each of the first generators on the first image, and where its flow takes it; channels are averaged."""
    import torch

    if samples.ndim == 3:
        raise ValueError("--pictures: samples of two axes are vectors; give --shape 1,HEIGHT,WIDTH for images.")
    pixels = math.prod(samples.shape[1:])
    space = tuple(samples.shape[-2:]) if samples.ndim == 4 else (math.isqrt(pixels),) * 2
    if pixels % math.prod(space) or min(space) < 2:
        raise ValueError(f"samples of {pixels} numbers are not square images; leave --pictures out.")
    if not found.dimension:
        raise ValueError("there are no generators to draw; leave --pictures out.")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    family, times = found.as_operators().double(), (-1.0, -0.5, 0.0, 0.5, 1.0)
    image = samples[:1].double().reshape(1, -1, *(family.space or space))
    count = min(4, found.dimension)
    figure = Figure(figsize=(1.6 * (len(times) + 1), 1.7 * count), layout="constrained")
    FigureCanvasAgg(figure)
    for row, index in zip(figure.subplots(count, len(times) + 1, squeeze=False), range(count), strict=True):
        chosen = torch.nn.functional.one_hot(torch.tensor(index), family.count).double()
        shown = [family.act(image)[index], *(family.expm_apply(t * chosen, image) for t in times)]
        for axes, values, title in zip(row, shown, ("L x", *(f"t = {t:g}" for t in times)), strict=True):
            seen = values.reshape(-1, *space).mean(0).numpy(force=True)
            axes.imshow(seen, cmap="RdBu_r" if title == "L x" else "gray")
            axes.set_title(title, fontsize="small")
            axes.set_axis_off()
    return figure
