"""`relaxify diagnose`: whether relaxing can do anything for a model and its data."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from relaxify_cli.options import Factory, Html, Json
from relaxify_cli.progress import waiting
from relaxify_cli.reporting import say, say_json

EXAMPLE = "relaxify diagnose my.models:make_model --data my.data:batches --loss my.training:loss --group SO3"


def diagnose(
    model: Factory,
    data: Annotated[
        str,
        typer.Option("--data", "-d", metavar="PKG.MOD:FACTORY", help="What makes the batches: anything to iterate over."),
    ],
    loss: Annotated[
        str, typer.Option("--loss", "-l", metavar="PKG.MOD:FUNCTION", help="(model, batch) -> a single number.")
    ],
    group: Annotated[
        str | None, typer.Option("--group", "-g", help="The symmetry group, such as SO3; none for a relaxed model.")
    ] = None,
    batches: Annotated[int, typer.Option(min=3, help="How many batches to look at.")] = 8,
    as_json: Json = False,
    html: Html = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what --html names.")] = False,
) -> None:
    """Print, layer by layer, how much of the gradient is equivariant beside what chance would give, and advice.

    Near 1 the data are as symmetric as the model, and relaxing does little; near chance the terms would learn the poses.
    """
    import relaxify
    from relaxify.output import check_target, write_whole
    from relaxify_cli.loading import build_model, load_factory, load_value

    if html is not None:
        check_target(html, force=force)
    made: Any = load_value(data)
    if not isinstance(made, Iterable) or isinstance(made, dict | str):
        raise ValueError(f"{data} returned {type(made).__name__}; it must return batches, such as a list or a DataLoader.")
    with waiting("diagnosing"):
        found = relaxify.diagnose(build_model(model), load_factory(loss), itertools.islice(made, batches), group=group)
    if html is not None:
        write_whole(html, found.to_html().encode(), force=force)
    if as_json:
        say_json(found.to_dict())
    else:
        say(str(found))
