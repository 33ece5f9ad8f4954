"""Charts as SVG inside of the page: text stays text, and colours are the page's own, light or dark."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ganpo_core import GanpoError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0a5c9e", "#bf4d13", "#2e7d4f", "#7a4aa0", "#96720a", "#a33a5f")
"""Of the series, in order; the stylesheet has the same for dark pages."""
DASHES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
INK, FAINT = "#24292f", "#c9cfd6"
MOST_POINTS = 300
"""Beyond it, neighbouring points are averaged: a screen has no more."""
WIDE_SPAN = 100.0
"""Of the largest value over the smallest, beyond which a linear axis hides the small ones."""
SIZE = (5.4, 3.0)
"""Inches of 96 pixels; text of 10 points is then readable where the page is 480 pixels wide."""


@dataclass(frozen=True)
class Curve:
    """One series of a chart."""

    name: str
    """Whose: a run, a policy."""
    x: Sequence[float]
    y: Sequence[float]
    group: str = ""
    """Which of several of the same name; told apart by the dash, or by colour where a chart has one name."""
    colour: int = 0
    dash: int = 0
    marks: bool = False
    """Points rather than a line alone: few values, each measured."""
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    """Ends of intervals, as long as `y` where there are any."""
    joined: bool = True


@dataclass(frozen=True)
class Legend:
    """What one mark stands for."""

    label: str
    colour: int | None
    """None for a mark that any colour may have."""
    dash: int = 0
    point: bool = False


@dataclass(frozen=True)
class Drawing:
    """A chart ready for the page."""

    title: str
    caption: str
    svg: str
    legend: tuple[Legend, ...]


def draw(
    title: str,
    caption: str,
    curves: Sequence[Curve],
    x_label: str = "step",
    y_label: str = "",
    zero: bool = False,
    log: bool = False,
    ticks: Sequence[str] = (),
) -> Drawing:
    """A chart; `zero` adds the line at 0, `ticks` name the places 0, 1, … of the horizontal axis.

    With `log` the axis is logarithmic where values span more than two orders of magnitude.
    """
    figure, axes = _axes()
    plot_curves(axes, curves)
    finite = [value for curve in curves for value in curve.y if math.isfinite(value)]
    if log and finite and min(finite) > 0 and max(finite) > WIDE_SPAN * min(finite):
        axes.set_yscale("log")
    elif zero:
        axes.axhline(0.0, color=FAINT, linewidth=1, zorder=0)
    axes.set_xlabel(x_label, parse_math=False)  # a dollar in a name is no formula
    axes.set_ylabel(y_label, parse_math=False)
    if ticks:
        axes.set_xticks(range(len(ticks)), labels=list(ticks), parse_math=False)
    return Drawing(title, caption, as_svg(figure, title), legend_of(curves))


def legend_of(curves: Sequence[Curve]) -> tuple[Legend, ...]:
    """Names by colour and groups by dash, each said once; nothing where there is one of each."""
    names = dict.fromkeys((curve.name, curve.colour) for curve in curves)
    groups = dict.fromkeys((curve.group, curve.dash, not curve.joined) for curve in curves)
    if len({name for name, _ in names}) == 1:
        own = dict.fromkeys((curve.group, curve.colour, curve.dash, not curve.joined) for curve in curves)
        return tuple(Legend(*each) for each in own if each[0]) if len(own) > 1 else ()
    found = [Legend(name, colour) for name, colour in names]
    if len(groups) > 1:
        found += [Legend(group, None, dash, point) for group, dash, point in groups if group]
    return tuple(found)


def plot_curves(axes: Axes, curves: Sequence[Curve]) -> None:
    """Draw curves into axes, long ones thinned."""
    for curve in curves:
        x, y = thinned(curve.x, curve.y)
        style = DASHES[curve.dash % len(DASHES)] if curve.joined else ""
        options: dict[str, Any] = {"color": COLOURS[curve.colour % len(COLOURS)], "linestyle": style, "linewidth": 1.8}
        if curve.marks or len(y) < 3:
            options |= {"marker": "o" if curve.joined else "D", "markersize": 5}
        if curve.low:
            spans = [[max(0.0, at - end) for at, end in zip(curve.y, curve.low, strict=True)],
                     [max(0.0, end - at) for at, end in zip(curve.y, curve.high, strict=True)]]  # fmt: skip
            axes.errorbar(curve.x, curve.y, yerr=spans, capsize=3, elinewidth=1.2, **options)
        else:
            axes.plot(x, y, **options)


def thinned(x: Sequence[float], y: Sequence[float], most: int = MOST_POINTS) -> tuple[list[float], list[float]]:
    """Means of as many neighbours as it takes to keep at most `most` points."""
    size = math.ceil(len(y) / most)
    if size <= 1:
        return list(x), list(y)
    starts = range(0, len(y), size)
    return [_mean(x[start : start + size]) for start in starts], [_mean(y[start : start + size]) for start in starts]


def pyplot_figure(columns: int, width: float = 6.0, height: float = 3.8) -> tuple[Figure, Sequence[Axes]]:
    """A figure with panels in a row, for a PNG. Raises GanpoError where matplotlib is not installed."""
    figure = _figure((width * columns, height))
    panels = figure.subplots(1, columns, squeeze=False)[0]
    for axes in panels:
        _dress(axes)
    return figure, list(panels)


def as_svg(figure: Figure, title: str) -> str:
    """The figure as an element of an HTML page: its own ids, colours by variables, sized by the page."""
    import matplotlib as mpl

    written = io.StringIO()
    key = re.sub(r"\W+", "-", title.lower()).strip("-")
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r' xmlns(?::xlink)?="[^"]*"| version="1.1"', "", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\d\.\d{2})\d+", r"\1", path[0]), svg)
    # Several charts share a page: ids are its own, and groups that nothing refers to need none.
    referred = set(re.findall(r"#([\w-]+)\)|href=\"#([\w-]+)\"", svg))
    kept = {name for pair in referred for name in pair if name}
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{key}-{found[1]}"' if found[1] in kept else "", svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{key}-", svg)
    for index, colour in enumerate(COLOURS):
        svg = svg.replace(colour, f"var(--series-{index})")
    svg = svg.replace(INK, "var(--ink-soft)").replace(FAINT, "var(--rule)")
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)


def _axes() -> tuple[Figure, Axes]:
    figure = _figure(SIZE)
    axes = figure.subplots()
    _dress(axes)
    return figure, axes


def _figure(size: tuple[float, float]) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise GanpoError("charts need matplotlib; install it with `pip install 'ganpo[report]'`") from error
    return Figure(figsize=size, layout="constrained")


def _dress(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=10, length=3, color=FAINT)
    axes.tick_params(which="minor", length=2, color=FAINT)
    axes.xaxis.label.set(color=INK, fontsize=10)
    axes.yaxis.label.set(color=INK, fontsize=10)
    axes.grid(axis="y", color=FAINT, linewidth=0.6, alpha=0.7)
    axes.set_axisbelow(True)
    axes.locator_params(nbins=6)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
