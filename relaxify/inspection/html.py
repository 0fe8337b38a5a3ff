"""The report as one HTML page that needs no network: the fault, bars per layer, the tree of modules, all operations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

from relaxify.inspection.report import Errors, Fault, ModuleReport, Report

FLOOR = 1e-17


def to_html(report: Report) -> str:
    """The whole page."""
    title = f"{report.model} under {report.group}"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>",
            f"<h1>{escape(title)}</h1>",
            *_verdict(report),
            *_outputs(report),
            *_layers(report),
            *_tree(report.modules),
            *_nodes(report),
            f"</main><script>{_SCRIPT}</script></body></html>",
        ]
    )


def _verdict(report: Report) -> Iterator[str]:
    if report.fault is None:
        yield '<p class="verdict sound">No operation breaks the symmetry.</p>'
    else:
        yield from _fault(report.fault, report.group)
    cells = [("error in float64", _errors(report.error)), ("in its own precision", _errors(report.error_in_own_precision))]
    if report.relaxed_error is not None:
        cells.append(("with its terms acting", _errors(report.relaxed_error)))
    if report.lie:
        cells.append(("Lie derivatives", f"{' '.join(map(_number, report.lie))} <small>({report.lie_method})</small>"))
    cells.append(("forward passes", str(report.forward_passes)))
    yield "<dl>" + "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in cells) + "</dl>"
    if report.diverged:
        yield f"<p>Runs on x and on g x take different courses from <code>{escape(report.diverged)}</code> on.</p>"


def _fault(fault: Fault, group: str) -> Iterator[str]:
    yield f'<div class="verdict broken"><p><strong>It breaks {escape(group)}</strong> in '
    yield f"<code>{escape(fault.module or 'the model')}</code>: {escape(fault.cause)}.</p>"
    yield f"<pre><small>{escape(fault.location)}</small>\n{escape(fault.source)}</pre>"
    yield f"<p>Error of this value {_number(fault.error)}; the output's is {_number(fault.amplified)} times that.</p></div>"


def _outputs(report: Report) -> Iterator[str]:
    rows = [
        (escape(o.name), str(list(o.shape)), escape(o.transforms), _number(o.error.mean), _number(o.response))
        for o in report.outputs
    ]
    yield "<h2>Outputs</h2>"
    yield from _table(("output", "shape", "transforms as", "error", "response"), rows)


def _layers(report: Report) -> Iterator[str]:
    if not report.layers:
        return
    yield "<h2>Layers</h2>"
    with_terms = any(layer.lie is not None for layer in report.layers)
    head = ["layer", "in → out", "weights", "error", ""]
    head += ["|W − P<sub>H</sub>W| / |W|", "share", "drop takes", "fold takes"] if with_terms else []
    rows = []
    for layer in report.layers:
        row = [f"<code>{escape(layer.path)}</code>", escape(f"{layer.rep_in} → {layer.rep_out}"), f"{layer.parameters:,}"]
        row += [_number(layer.error.mean), _bar(layer.error.mean)]
        row += [_number(v) for v in (layer.weight_error, layer.share, layer.drop, layer.fold)] if with_terms else []
        rows.append(row)
    yield from _table(head, rows)
    yield "<p><small>Bars are logarithmic, from 1e-17 to 1.</small></p>"


def _tree(modules: Sequence[ModuleReport]) -> Iterator[str]:
    yield "<h2>Modules</h2>"
    yield from _branch("", {module.path: module for module in modules}, _children(modules))


def _children(modules: Sequence[ModuleReport]) -> dict[str, list[str]]:
    """The nearest recorded descendants of each module: containers that are never called have no line."""
    paths = [module.path for module in modules]
    children: dict[str, list[str]] = {path: [] for path in ["", *paths]}
    for path in paths:
        parent = path
        while parent:
            parent = parent.rpartition(".")[0]
            if parent in children:
                break
        if path:
            children[parent].append(path)
    return children


def _branch(path: str, modules: dict[str, ModuleReport], children: dict[str, list[str]]) -> Iterator[str]:
    module = modules.get(path)
    words = "" if module is None else f"{escape(module.type)} <em>{escape(module.transforms)}</em>"
    broken = " broken" if module is not None and module.transforms == "in no linear way" else ""
    label = f'<code class="{broken.strip()}">{escape(path or "(the model)")}</code> {words}'
    if not children.get(path):
        yield f'<div class="leaf">{label}</div>'
        return
    yield f"<details {'open' if path.count('.') < 1 else ''}><summary>{label}</summary>"
    for child in children[path]:
        yield from _branch(child, modules, children)
    yield "</details>"


def _nodes(report: Report) -> Iterator[str]:
    rows = [
        (
            str(node.number),
            escape(node.op),
            f"<code>{escape(node.module)}</code>",
            f'<span title="{escape(node.location)}">{escape(Path(node.location).name)}</span>',
            str(list(node.shape)),
            escape(node.transforms),
            _number(node.error),
        )
        for node in report.nodes
    ]
    yield f"<h2>Operations</h2><details><summary>{len(rows)} executed operations</summary>"
    yield from _table(("#", "op", "module", "statement", "shape", "transforms", "error"), rows)
    yield "</details>"


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "<div class=scroll><table><thead><tr>" + "".join(f"<th>{name}</th>" for name in head) + "</tr></thead><tbody>"
    for row in rows:
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
    yield "</tbody></table></div>"


def _errors(errors: Errors) -> str:
    return f"{_number(errors.mean)} ± {_number(errors.standard_error)}, at most {_number(errors.largest)}"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1e}" if math.isfinite(value) else str(value)


def _bar(value: float) -> str:
    """A bar whose length is the logarithm of the error."""
    share = 0.0 if not value > 0 else min(max(1 - math.log(value) / math.log(FLOOR), 0.0), 1.0)
    colour = "high" if value > 1e-3 else "low"
    return f'<span class="bar {colour}" style="width:{6 * share:.2f}em"></span><span hidden>{value!r}</span>'


_STYLE = """
:root { color-scheme: light dark; --ink: #1d2129; --paper: #fff; --soft: #f2f4f7; --line: #d8dde5;
  --low: #3b7dd8; --high: #c8322b; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7ec; --paper: #15181d; --soft: #1f242c; --line: #363d48; --low: #6fa6ef; --high: #ff7a70; }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 72em; margin: 0 auto; padding: 1.5em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
code, pre { font-family: ui-monospace, monospace; font-size: .92em; }
pre { background: var(--paper); border: 1px solid var(--line); padding: .7em; overflow-x: auto; }
dl { display: flex; flex-wrap: wrap; gap: .6em; } dl div { background: var(--soft); padding: .5em .9em; border-radius: 6px; }
dt { font-size: .8em; opacity: .75; } dd { margin: 0; font-variant-numeric: tabular-nums; }
.verdict { padding: .8em 1em; border-radius: 6px; background: var(--soft); border-left: 5px solid var(--low); }
.verdict.broken { border-color: var(--high); } code.broken { color: var(--high); font-weight: 600; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { cursor: pointer; font-size: .85em; } th:hover { text-decoration: underline; }
.bar { display: inline-block; height: .7em; background: var(--low); border-radius: 2px; }
.bar.high { background: var(--high); }
details details, .leaf { margin-left: 1.2em; } summary { cursor: pointer; } em { opacity: .75; }
""".strip()

_SCRIPT = """
for (const table of document.querySelectorAll("table"))
  table.querySelectorAll("th").forEach((head, column) => head.addEventListener("click", () => {
    const body = table.tBodies[0], sign = head.dataset.sign = head.dataset.sign === "1" ? "-1" : "1";
    const key = row => row.cells[column].textContent.replace(/,/g, "");
    const compare = (a, b) => { const x = parseFloat(a), y = parseFloat(b);
      return isNaN(x) || isNaN(y) ? a.localeCompare(b) : x - y; };
    [...body.rows].sort((a, b) => sign * compare(key(a), key(b))).forEach(row => body.append(row));
  }));
""".strip()
