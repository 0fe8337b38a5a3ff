"""What every report is beside its data: short at a prompt, a page in a notebook, a frame of pandas, JSON.

A report has `to_dict` and, as text, a first line that says the most; `rows` are its lines of a table, and `page` names its
page of `templates/`.
"""

from __future__ import annotations

import datetime as dt
import html
import importlib.metadata
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from relaxify.pages import finite, template

if TYPE_CHECKING:
    import pandas as pd

LONGEST_REPR = 120


class Rendered:
    r"""Mixed into a frozen dataclass that leaves `repr` alone.

    >>> class Count(Rendered):
    ...     def __str__(self) -> str:
    ...         return "3 sites\n  and what they are"
    >>> Count()
    <Count: 3 sites>
    """

    page: ClassVar[str] = ""

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        raise NotImplementedError

    def rows(self) -> Sequence[Mapping[str, Any]]:
        """What it says of each layer or part, as rows of a table."""
        raise NotImplementedError

    def about(self) -> dict[str, str]:
        """What it was made of, for the header of its page: inputs, precision."""
        return {}

    def to_json(self) -> str:
        """`to_dict` as JSON, with null in the place of what is not finite."""
        return json.dumps(finite(self.to_dict()), indent=1)

    def to_html(self) -> str:
        """A page that needs no network, light or dark as the reader's system is."""
        return template(self.page).render(report=self.to_dict(), header=made_with() | self.about())

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the page (.html) or the data (.json), whole or not at all.

        ValueError for another suffix, or if the file exists and `force` is not given.
        """
        from relaxify.output import write_whole

        target = Path(path)
        render = {".html": self.to_html, ".json": self.to_json}.get(target.suffix)
        if render is None:
            raise ValueError(f"{target} is neither .html nor .json; name the file by what it is to hold.")
        write_whole(target, render().encode(), force=force)

    def to_frame(self) -> pd.DataFrame:
        """`rows` as a pandas.DataFrame. ImportError if pandas is not installed."""
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("pandas is not installed, whose DataFrame to_frame() makes; pip install pandas.") from error
        return pd.DataFrame([dict(row) for row in self.rows()])

    def __repr__(self) -> str:
        first = str(self).partition("\n")[0]
        short = first if len(first) <= LONGEST_REPR else f"{first[: LONGEST_REPR - 3]}..."
        return f"<{type(self).__name__}: {short}>"

    def _repr_html_(self) -> str:
        # in a frame of its own, so that the page's style is not the notebook's
        page, style = html.escape(self.to_html(), quote=True), "width: 100%; height: 32em; border: 1px solid #8886"
        return f'<iframe title="{type(self).__name__}" style="{style}" srcdoc="{page}"></iframe>'


def about_inputs(inputs: Mapping[str, str]) -> dict[str, str]:
    """An entry of `about`, if there is anything to say.

    >>> about_inputs({"x": "vectors on axis 1", "cell": "vectors on axis 1"})
    {'inputs': 'x: vectors on axis 1; cell: vectors on axis 1'}
    """
    return {"inputs": "; ".join(f"{name}: {what}" for name, what in inputs.items())} if inputs else {}


def made_with() -> dict[str, str]:
    """With what, and when, a page was made: its header."""
    return {
        "relaxify": importlib.metadata.version("relaxify"),
        "torch": torch.__version__,
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
