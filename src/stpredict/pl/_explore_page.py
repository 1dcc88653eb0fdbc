"""The page of the explorer, in bokeh: two linked views, and what chooses what they show."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from stpredict.core._optional import optional_import
from stpredict.pl._explore_values import Held

_SIDE = 500  # pixels of a view
_REDRAW, _SEARCH = "explore.js", "explore_search.js"
_WORDS = {"measured": "Measured", "predicted": "Predicted", "error": "Error", "uncertainty": "Uncertainty"}


def page(held: Held, title: str, columns: list[str]) -> str:
    """One HTML file that needs nothing else."""
    bokeh = _bokeh()
    about, models = held.about, bokeh.models
    kinds = about["kinds"]
    start = [kinds[0], "predicted" if "predicted" in kinds else kinds[0]]
    options = {
        "Gene": [(kind, _WORDS[kind]) for kind in kinds],
        "Column": [(f"column:{number}", name) for number, name in enumerate(columns)],
        "Tissue": [("picture", "Picture only")],
    }
    names = [section["name"] for section in about["sections"]]
    ranges = {"x_range": models.Range1d(0, 1), "y_range": models.Range1d(1, 0)}
    views = [_view(bokeh, about, what, options, ranges) for what in start]
    chosen = {
        "section": models.Select(title="Section", value=names[0], options=names, width=220, name="section"),
        "colormap": models.Select(
            title="Colors", value=about["colormaps"][0], options=about["colormaps"], width=120, name="colormap"
        ),
        "ends": models.RangeSlider(
            title="Colors end at percentiles", start=0, end=100, value=(1, 99), step=0.5, width=220, name="ends"
        ),
        "same_gene": models.Checkbox(label="One gene in both views", active=True, name="same_gene"),
        "same_scale": models.Checkbox(label="One scale for measured and predicted", active=False, name="same_scale"),
    }
    opacity = models.Slider(
        title="Opacity of the spots", start=0, end=1, value=0.85, step=0.05, width=200, name="opacity"
    )
    picture = models.Slider(
        title="Opacity of the picture", start=0, end=1, value=1, step=0.05, width=200, name="picture"
    )
    for view in views:
        opacity.js_link("value", view.round.glyph, "fill_alpha")
        opacity.js_link("value", view.squares.glyph, "fill_alpha")
        picture.js_link("value", view.below.glyph, "global_alpha")
    redraw = models.CustomJS(
        args={
            "about": json.dumps(about),
            "codes": models.ColumnDataSource(held.codes),
            "columns": models.ColumnDataSource(held.columns),
            "views": [vars(view) for view in views],
            **chosen,
        },
        code=_code(_REDRAW),
    )
    for view in views:
        view.what.js_on_change("value", redraw)
        view.gene.js_on_change("value", redraw)
    for name, widget in chosen.items():
        widget.js_on_change("active" if name.startswith("same") else "value", redraw)
    column, row = bokeh.layouts.column, bokeh.layouts.row
    panes = [column(row(view.what, view.find, view.gene), view.figure, view.legend) for view in views]
    bars = [
        [chosen["section"], opacity, picture, chosen["colormap"], chosen["ends"]],
        [chosen["same_gene"], chosen["same_scale"]],
        panes,
    ]
    # What does not fit beside each other goes below.
    wrapped = {"sizing_mode": "stretch_width", "styles": {"flex-wrap": "wrap"}}
    document = bokeh.document.Document(title=title)
    document.add_root(column(*(row(*bar, **wrapped) for bar in bars), sizing_mode="stretch_width"))
    document.js_on_event("document_ready", redraw)
    return str(bokeh.embed.file_html(document, bokeh.resources.INLINE, title=title))


def _bokeh() -> SimpleNamespace:
    """Parts of bokeh, or what extra brings it."""
    parts = ("document", "embed", "layouts", "models", "plotting", "resources")
    return SimpleNamespace(**{name: optional_import(f"bokeh.{name}", "viz") for name in parts})


def _code(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _view(
    bokeh: Any, about: dict[str, Any], what: str, options: dict[str, Any], ranges: dict[str, Any]
) -> SimpleNamespace:
    """One view: the picture, the spots over it, and what chooses them."""
    models = bokeh.models
    figure = bokeh.plotting.figure(
        frame_width=_SIDE, frame_height=_SIDE, tools="pan,wheel_zoom,box_zoom,reset,save", active_scroll="wheel_zoom",
        toolbar_location="right", title=" ", **ranges,
    )  # fmt: skip
    figure.toolbar.logo = None
    figure.axis.visible = False
    figure.grid.visible = False
    figure.outline_line_color = None
    picture = models.ColumnDataSource({name: [] for name in ("url", "x", "y", "w", "h")})
    below = figure.image_url(url="url", x="x", y="y", w="w", h="h", anchor="top_left", source=picture)
    fields = ("x", "y", "color", "radius", "side", "angle", "id", "name", "gene", "shown", *about["kinds"])
    spots = models.ColumnDataSource({name: [] for name in fields})
    drawn = {"fill_color": "color", "line_color": None, "fill_alpha": 0.85, "source": spots}
    round_ = figure.circle("x", "y", radius="radius", **drawn)
    squares = figure.rect("x", "y", "side", "side", angle="angle", visible=False, **drawn)
    lines = [("", "@id"), ("", "@name: @shown"), ("gene", "@gene"), *((kind, f"@{kind}") for kind in about["kinds"])]
    figure.add_tools(models.HoverTool(renderers=[round_, squares], tooltips=lines))
    mapper = models.LinearColorMapper(palette=about["palettes"][about["colormaps"][0]], low=0, high=1)
    bar = models.ColorBar(color_mapper=mapper, height=10, title="", title_text_font_style="normal")
    figure.add_layout(bar, "below")
    if about["length"] == "µm":
        figure.add_layout(
            models.ScaleBar(range=figure.x_range, unit="µm", location="bottom_left", background_fill_alpha=0.6)
        )
    # bokeh's AutocompleteInput breaks when its list gets shorter under the pointer (3.9).
    find = models.TextInput(title="Search", placeholder="part of a name", width=150)
    gene = models.Select(title="Gene", value=about["first"], options=about["genes"], width=160)
    search = models.CustomJS(args={"find": find, "choice": gene, "genes": about["genes"]}, code=_code(_SEARCH))
    find.js_on_change("value_input", search)
    choice = models.Select(title="Shows", value=what, options=options, width=160)
    legend = models.Div(text="", width=_SIDE)
    return SimpleNamespace(
        figure=figure, picture=picture, below=below, spots=spots, round=round_, squares=squares, mapper=mapper, bar=bar,
        find=find, gene=gene, what=choice, legend=legend,
    )  # fmt: skip
