"""The page of a report: its style sheet, and the parts that its sections are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from optuna_spark.charts import LEFT, escaped

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1c2126; --soft: #59636e; --rule: #d5dae0; --grid: #eceff2;
  --panel: #f6f7f9; --complete: #2f6db5; --best: #0b7d62; --pruned: #b36b00; --fail: #c4322b;
  --other: #7b8490; --age0: #a9c6e8; --age1: #6f9fd3; --age2: #3f78b8; --age3: #1d4779;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --ink: #e4e7ea; --soft: #9aa4af; --rule: #363d45; --grid: #23292f;
    --panel: #1b1f24; --complete: #6aa5e3; --best: #45c9a3; --pruned: #e3a33e; --fail: #f0716a;
    --other: #8d96a1; --age0: #3d6390; --age1: #4d83c2; --age2: #6aa5e3; --age3: #b9d7f7;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 40px 24px 64px; max-width: 1060px; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
  "DejaVu Sans", sans-serif; font-variant-numeric: tabular-nums;
}
h1, h2, h3 { font-weight: 600; line-height: 1.25; overflow-wrap: anywhere; }
h1 { font-size: 28px; margin: 0 0 6px; }
h2 { font-size: 19px; margin: 0 0 12px; }
h3 { font-size: 14px; margin: 0 0 4px; }
p { margin: 0 0 8px; max-width: 76ch; overflow-wrap: anywhere; }
a { color: inherit; text-decoration-color: var(--soft); text-underline-offset: 2px; }
code, pre { font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono",
  monospace; }
code { overflow-wrap: anywhere; }
section { margin-top: 44px; }
.soft, figcaption, footer { color: var(--soft); font-size: 13.5px; }
.facts {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 1px;
  margin: 24px 0 0; border: 1px solid var(--rule); border-radius: 8px; overflow: hidden;
}
.facts div { box-shadow: 0 0 0 1px var(--rule); padding: 12px 16px; }
.facts dt { color: var(--soft); font-size: 13px; }
.facts dd { margin: 0; font-size: 20px; font-weight: 600; overflow-wrap: anywhere; }
.facts dd small { display: block; font-size: 13px; font-weight: 400; color: var(--soft); }
figure { margin: 0; break-inside: avoid; }
figure + figure { margin-top: 28px; }
figcaption { margin-top: 8px; max-width: 76ch; }
.keys { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0 0 8px; font-size: 13px;
  color: var(--soft); list-style: none; padding: 0; }
.keys i { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 6px; }
.keys i.line { height: 0; width: 16px; border-radius: 0; border-top: 2px solid;
  vertical-align: 3px; }
.keys i.complete { background: var(--complete); } .keys i.front { background: var(--best); }
.keys i.pruned { border: 1.5px solid var(--pruned); } .keys i.fail { background: var(--fail); }
.keys i.infeasible { border: 1.5px solid var(--other); }
.keys i.running { background: var(--other); } .keys i.filled { background: var(--pruned);
  border: 0; }
.keys i.line.best { background: none; border-color: var(--best); }
.keys i.line.complete { background: none; border-color: var(--complete); }
.keys i.line.pruned { border: 0; border-top: 2px solid var(--pruned); }
.keys i.line.fail { background: none; border-color: var(--fail); }
.keys i.line.running { background: none; border-color: var(--other); }
.chart { padding: 0 10px 0 LEFTpx; }
.narrow { max-width: 560px; padding: 0; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr));
  gap: 24px 32px; }
.slices { display: grid; gap: 20px 24px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); }
svg.plot { display: block; overflow: visible; font-size: 12px; }
svg.plot text { fill: var(--soft); }
svg.plot svg { overflow: visible; }
.grid { stroke: var(--grid); } .axis { stroke: var(--rule); }
.middle { text-anchor: middle; } .end { text-anchor: end; }
svg.plot text.name, svg.plot text.host { fill: var(--ink); }
text.host { font-weight: 600; }
.cut { stroke: var(--other); stroke-dasharray: 3 4; }
circle { fill: var(--complete); fill-opacity: .6; }
circle.front { fill: var(--best); fill-opacity: 1; }
circle.pruned, circle.infeasible { fill: none; stroke-width: 1.2; }
circle.pruned { stroke: var(--pruned); stroke-opacity: .8; }
circle.infeasible { stroke: var(--other); }
circle.ring { fill: var(--paper); fill-opacity: 1; stroke: var(--best); stroke-width: 2.5; }
line.fail { stroke: var(--fail); stroke-width: 1.5; }
line.pruned { stroke: var(--pruned); stroke-width: 1.5; }
path { vector-effect: non-scaling-stroke; fill: none; }
path.line { stroke: var(--complete); stroke-width: 1.2; stroke-opacity: .4; }
path.line.point { stroke-linecap: round; stroke-width: 5px; stroke-opacity: .7; }
path.line.pruned { stroke: var(--pruned); }
path.line.fail { stroke: var(--fail); } path.line.running { stroke: var(--other); }
path.line.best { stroke: var(--best); stroke-width: 2; stroke-opacity: 1; }
path.area { fill: var(--complete); fill-opacity: .22; stroke: none; }
path.dots { stroke-linecap: round; stroke-width: 5px; stroke-opacity: .75; }
.age0 { stroke: var(--age0); } .age1 { stroke: var(--age1); }
.age2 { stroke: var(--age2); } .age3 { stroke: var(--age3); }
.keys i.age0 { background: var(--age0); } .keys i.age3 { background: var(--age3); }
rect.bar { stroke: var(--paper); stroke-width: .6; }
rect.complete { fill: var(--complete); } rect.pruned { fill: var(--pruned); }
rect.fail { fill: var(--fail); } rect.running { fill: var(--other); }
path.bar.complete { stroke: var(--complete); } path.bar.pruned { stroke: var(--pruned); }
path.bar.fail { stroke: var(--fail); } path.bar.running { stroke: var(--other); }
rect.track { fill: var(--grid); } rect.share { fill: var(--complete); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; }
th, td { text-align: left; padding: 5px 20px 5px 0; border-bottom: 1px solid var(--grid);
  vertical-align: top; }
th { font-weight: 400; color: var(--soft); }
td.number, th.number { text-align: right; white-space: nowrap; }
details { margin: 6px 0; }
summary { cursor: pointer; color: var(--soft); font-size: 13.5px; }
pre { background: var(--panel); border: 1px solid var(--rule); border-radius: 6px; margin: 8px 0;
  padding: 12px 14px; max-height: 420px; overflow: auto; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.failure { border-left: 3px solid var(--fail); padding-left: 14px; margin: 0 0 22px; }
.failure h3 { font: 600 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas,
  "DejaVu Sans Mono", monospace; }
footer { margin-top: 56px; padding-top: 12px; border-top: 1px solid var(--rule); }
@media (max-width: 600px) {
  body { padding: 24px 16px 40px; }
  h1 { font-size: 23px; }
  .facts { grid-template-columns: 1fr 1fr; }
  .facts dd { font-size: 17px; }
}
@media print {
  :root {
    color-scheme: light;
    --paper: #ffffff; --ink: #000000; --soft: #444c56; --rule: #c5cbd2; --grid: #e6e9ec;
    --panel: #f6f7f9; --complete: #2f6db5; --best: #0b7d62; --pruned: #b36b00; --fail: #c4322b;
    --other: #7b8490; --age0: #a9c6e8; --age1: #6f9fd3; --age2: #3f78b8; --age3: #1d4779;
  }
  body { max-width: none; padding: 0; font-size: 11pt; print-color-adjust: exact;
    -webkit-print-color-adjust: exact; }
  section { margin-top: 24px; }
  h2 { break-after: avoid; }
  pre { max-height: none; }
}
""".replace("LEFT", str(LEFT))


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page, which loads nothing.

    Args:
        title: What the browser's window is called.
        parts: Elements of HTML.
    """
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        # Whatever a study's texts hold: nothing runs, and nothing is fetched.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n"
        f"<title>{escaped(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def section(name: str, title: str, parts: Iterable[str]) -> str:
    """A part of the page under a title.

    Args:
        name: What links call it.
        title: What it shows.
        parts: Elements of HTML.
    """
    body = "\n".join(parts)
    return f'<section id="{name}">\n<h2>{escaped(title)}</h2>\n{body}\n</section>'


def figure(
    chart: str, caption: str, *, keys: Sequence[tuple[str, str]] = (), kind: str = "chart"
) -> str:
    """A chart, its colours' meaning above it, and a caption below.

    Args:
        chart: SVG.
        caption: A sentence or two.
        keys: Class and meaning of each colour.
        kind: Class of what holds the chart.
    """
    listed = "".join(f'<li><i class="{mark}"></i>{escaped(told)}</li>' for mark, told in keys)
    legend = f'<ul class="keys">{listed}</ul>\n' if keys else ""
    return (
        f'<figure>\n{legend}<div class="{kind}">{chart}</div>\n'
        f"<figcaption>{escaped(caption)}</figcaption>\n</figure>"
    )


def facts(told: Iterable[tuple[str, str, str]]) -> str:
    """The numbers at the top of the page.

    Args:
        told: What it is, the number, and what there is to say of it.
    """
    made = []
    for name, value, more in told:
        small = f"<small>{escaped(more)}</small>" if more else ""
        made.append(f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}{small}</dd></div>")
    return f'<dl class="facts">\n{"".join(made)}\n</dl>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int = 0) -> str:
    """A table.

    Args:
        head: Names of the columns.
        rows: Cells.
        numbers: So many columns, from the left, hold numbers.
    """

    def line(cells: Sequence[str], tag: str) -> str:
        made = ""
        for index, cell in enumerate(cells):
            kind = ' class="number"' if index < numbers else ""
            made += f"<{tag}{kind}>{escaped(cell)}</{tag}>"
        return f"<tr>{made}</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    top = f"<thead>{line(head, 'th')}</thead>" if head else ""
    return f'<div class="scroll"><table>{top}<tbody>\n{body}\n</tbody></table></div>'


def paragraph(text: str, *, soft: bool = False) -> str:
    """A paragraph of text."""
    return f'<p class="soft">{escaped(text)}</p>' if soft else f"<p>{escaped(text)}</p>"


def folded(summary: str, text: str) -> str:
    """Text in its own lines, which opens at a click.

    Args:
        summary: What is seen before.
        text: The rest.
    """
    return (
        f"<details><summary>{escaped(summary)}</summary>\n<pre>{escaped(text)}</pre>\n</details>"
    )
