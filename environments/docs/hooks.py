"""What the site does to pages: languages of blocks, papers spelled out at first use, and notebooks as pages."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

PAPERS = {"CR": "Pertigkiozoglou et al. 2024", "LC": "Dehmamy et al. 2021"}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """A page beside every notebook, which stays there to be downloaded."""
    from mkdocs.structure.files import File

    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        content = notebook_page(Path(file.abs_src_path))
        files.append(File.generated(config, file.src_uri.removesuffix("ipynb") + "md", content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with the language alone on each fence, and links to notebooks leading to their pages.

    What tests read of a block of code, such as `python continuation`, is no language that is highlighted.
    """
    markdown = re.sub(r"^```(\w+) [\w =-]+$", r"```\1", markdown, flags=re.MULTILINE)
    return re.sub(r"(\]\([\w./-]+)\.ipynb\)", r"\1.md)", markdown)


def on_page_content(content: str, **_: Any) -> str:
    """The page with each paper's name after the first use of its abbreviation, unless the page has it anyway."""
    for short, name in PAPERS.items():
        if name.split()[0] not in re.sub("<[^>]*>", "", content):
            content = content.replace(f">{short}</abbr>", f">{short}</abbr> ({name})", 1)
    return content


def notebook_page(notebook: Path) -> str:
    """The cells of a notebook and what they have put out, as Markdown."""
    cells = json.loads(notebook.read_text())["cells"]
    download = f'<a href="../{notebook.name}" download>Download this notebook</a>'
    return "\n\n".join([part for cell in cells for part in _cell(cell)] + [download])


def _cell(cell: dict[str, Any]) -> list[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [source]
    return [f"```python\n{source}\n```", *(_output(output) for output in cell["outputs"])]


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {"text/plain": output.get("text", [])})
    if "text/html" in data:
        # a blank line would end the HTML
        return "<div>" + "".join(data["text/html"]).replace("\n", "&#10;") + "</div>"
    if "image/png" in data:
        seen = html.escape("".join(data["text/plain"]), quote=True)
        return f'<div><img alt="{seen}" src="data:image/png;base64,{"".join(data["image/png"]).strip()}"></div>'
    return "```text\n" + "".join(data["text/plain"]).rstrip("\n") + "\n```"
