"""The explorer: what its page holds, and that it does in a browser what it says."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import stpredict as stp
from stpredict.pl._explore_values import MISSING, column_entry, first_gene, gene_values, shown_columns, to_codes
from stpredict.slots._provenance import write_record

pytest.importorskip("bokeh", reason="bokeh, of the extra viz, is not installed")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = ["<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "{{ 7 * 7 }} $$x$$"]
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def sections() -> ad.AnnData:
    """A section of 60 spots with a picture, and a tiled one of 45 × 45 squares without; hostile names everywhere."""
    rng = np.random.default_rng(0)
    grids = [np.mgrid[:6, :10].reshape(2, -1), np.mgrid[:45, :45].reshape(2, -1)]
    xy = np.concatenate([100.0 * grid[::-1].T + 200 for grid in grids])
    sample = np.repeat(["A", "B <b>2</b>"], [60, 45 * 45])
    genes = [f"GENE{i}" for i in range(12)] + HOSTILE
    values = rng.poisson(2, (len(xy), len(genes))).astype(np.float32)
    domain = np.where(xy[:, 0] > 600, "tumor <i>x</i>", HOSTILE[0])
    obs = pd.DataFrame({"sample": sample, "patient": sample, "domain": pd.Categorical(domain), "depth": xy[:, 1]})
    obs.index = [f"AAAC-{i}" for i in range(len(xy))]
    adata = ad.AnnData(np.log1p(values), obs=obs, var=pd.DataFrame(index=genes), uns={"log1p": {}})
    adata.obsm["spatial"] = xy
    predicted = adata.X * 0.5 + rng.normal(0, 0.1, adata.shape)
    predicted[3, 4] = np.nan
    for name, part in {"predicted": predicted, "predicted_std": rng.gamma(2, 0.1, adata.shape)}.items():
        adata.obsm[name] = pd.DataFrame(part.astype(np.float32), adata.obs_names, genes)
    picture = np.full((70, 110, 3), 220, np.uint8)
    factors = {"tissue_hires_scalef": 0.1, "spot_diameter_fullres": 60.0, "microns_per_pixel": 0.5}
    adata.uns["spatial"] = {
        "A": {"images": {"hires": picture}, "scalefactors": factors},
        "B <b>2</b>": {"scalefactors": {"microns_per_pixel": 0.5}},
    }
    return adata


@pytest.fixture(scope="module")
def opened(sections: ad.AnnData, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The page in a browser without a network, with what its console said as `page.errors`."""
    if BROWSER is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright, of the test group, is not installed")
    path = tmp_path_factory.mktemp("explore") / "page.html"
    stp.pl.explore(sections, path, title="<script>alert(3)</script>")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=FLAGS)
        context = browser.new_context(offline=True, viewport={"width": 1300, "height": 900})
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.errors = []
        page.on(
            "console",
            lambda message: page.errors.append(message.text) if message.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: page.errors.append(f"{error}: {error.stack}"))
        page.on("dialog", lambda dialog: (page.errors.append(dialog.message), dialog.dismiss()))
        page.goto(path.as_uri())
        page.wait_for_function("window.Bokeh && Bokeh.documents[0]?.is_idle")
        yield page
        browser.close()


@pytest.fixture
def page(opened: Any) -> Any:
    """The page, at its first section, and its first view at what was measured."""
    opened.get_by_label("Section").select_option("A")
    show(opened, 0, "Measured")
    return opened


def choose(page: Any, view: int, gene: str) -> None:
    """Type most of a name into the search box of a view, and take it from what is offered."""
    box = page.locator("input[type=text]").nth(view)
    box.fill("")
    box.press_sequentially(gene[:-1].lower())
    page.get_by_label("Gene").nth(view).select_option(gene)


def show(page: Any, view: int, what: str) -> None:
    page.get_by_label("Shows").nth(view).select_option(label=what)


def titles(page: Any) -> list[str]:
    return page.evaluate("Bokeh.documents[0].roots()[0].select({type: 'Figure'}).map((figure) => figure.title.text)")


def hovered(page: Any, view: int, row: int) -> str:
    """Text of the tooltip over a spot, by its row within the section."""
    at = page.evaluate(
        """([view, row]) => {
            const figure = Bokeh.documents[0].roots()[0].select({type: 'Figure'})[view]
            const plot = Bokeh.index.find_one(figure), spots = figure.renderers[1].data_source
            const box = plot.canvas_view.el.getBoundingClientRect()
            return {
                x: box.x + plot.frame.x_scale.compute(spots.get_column('x')[row]),
                y: box.y + plot.frame.y_scale.compute(spots.get_column('y')[row]),
            }
        }""",
        [view, row],
    )
    page.mouse.move(0, 0)
    page.mouse.move(at["x"], at["y"])
    tip = page.locator(".bk-Tooltip:visible").first
    tip.wait_for()
    return text_in(tip)


def text_in(element: Any) -> str:
    """Text of an element, its shadow roots included, but no styles."""
    return element.evaluate(
        """function text(node) {
            if (node.nodeType === Node.TEXT_NODE) return node.textContent
            if (node.localName === 'style') return ''
            return [...(node.shadowRoot?.childNodes ?? []), ...node.childNodes].map(text).join(' ')
        }"""
    )


def number(text: str, name: str) -> float:
    """Value that a tooltip gives beside a name."""
    return float(re.search(rf"{re.escape(name)}:\s*([-\d.e]+)", text)[1])


def test_a_gene_is_searched_and_read_over_a_spot(page: Any, sections: ad.AnnData) -> None:
    choose(page, 0, "GENE7")
    assert titles(page) == ["A: GENE7, measured", "A: GENE7, predicted (leak unknown)"]
    text = hovered(page, 0, 13)
    assert "AAAC-13" in text
    assert "GENE7, measured:" in text
    for kind, slot in {"measured": None, "predicted": "predicted", "uncertainty": "predicted_std"}.items():
        values = sections.to_df()["GENE7"] if slot is None else sections.obsm[slot]["GENE7"]
        assert number(text, kind) == pytest.approx(values.iloc[13], rel=2e-3, abs=1e-4)
    error = sections.obsm["predicted"]["GENE7"].iloc[13] - sections.to_df()["GENE7"].iloc[13]
    assert number(text, "error") == pytest.approx(error, rel=2e-3, abs=2e-4)
    choose(page, 1, "GENE4")
    assert re.search(r"predicted:\s+no value", hovered(page, 1, 3))


def test_search_narrows_what_is_offered(page: Any) -> None:
    box = page.locator("input[type=text]").first
    options = "Bokeh.documents[0].roots()[0].select({type: 'Select'}).find((each) => each.title === 'Gene').options"
    box.fill("gene1")
    assert page.evaluate(options) == ["GENE1", "GENE10", "GENE11"]
    assert titles(page)[0].startswith("A: GENE1,")
    box.fill("E11")
    assert page.evaluate(options) == ["GENE11"]
    assert titles(page) == ["A: GENE11, measured", "A: GENE11, predicted (leak unknown)"]
    box.fill("nothing like it")
    assert page.get_by_text("Search: no such gene").count() == 1
    assert page.evaluate(options) == ["GENE11"]
    box.fill("")
    assert len(page.evaluate(options)) == 15


def test_sections_are_switched_and_views_linked(page: Any, sections: ad.AnnData) -> None:
    choose(page, 1, "GENE2")
    page.get_by_label("Section").select_option("B <b>2</b>")
    assert titles(page) == ["B <b>2</b>: GENE2, measured", "B <b>2</b>: GENE2, predicted (leak unknown)"]
    # The second section begins at row 60 of the object.
    text = hovered(page, 1, 700)
    assert "AAAC-760" in text
    assert number(text, "predicted") == pytest.approx(sections.obsm["predicted"]["GENE2"].iloc[760], rel=2e-3, abs=1e-4)
    figures = "Bokeh.documents[0].roots()[0].select({type: 'Figure'})"
    assert (
        page.evaluate(f"{figures}.map((figure) => figure.renderers.map((each) => each.visible))")
        == [[True, False, True]] * 2
    )
    page.evaluate(f"{figures}[0].x_range.start = 300")
    assert page.evaluate(f"{figures}[1].x_range.start") == 300
    page.get_by_label("Section").select_option("A")
    assert page.evaluate(f"{figures}[1].x_range.start") < 100


def test_columns_errors_scales_and_opacity(page: Any) -> None:
    figures = "Bokeh.documents[0].roots()[0].select({type: 'Figure'})"
    show(page, 0, "domain")
    show(page, 1, "Error")
    assert titles(page)[0] == "A: domain"
    legend = text_in(page.locator(".bk-Div").first)
    assert "tumor <i>x</i>" in legend
    assert HOSTILE[0] in legend
    bar = f"{figures}[1].below.find((each) => each.type === 'ColorBar').color_mapper"
    low, high = page.evaluate(f"[{bar}.low, {bar}.high]")
    assert low == -high < 0
    show(page, 0, "Measured")
    show(page, 1, "Predicted")
    page.get_by_role("checkbox").nth(1).check()
    bars = f"{figures}.map((each) => each.below.find((part) => part.type === 'ColorBar').color_mapper)"
    assert len({tuple(each) for each in page.evaluate(f"{bars}.map((each) => [each.low, each.high])")}) == 1
    page.get_by_label("Colors", exact=True).select_option("magma")
    assert page.evaluate(f"{bars}[0].palette[255]") == "#fcfdbf"
    page.evaluate("Bokeh.documents[0].get_model_by_name('opacity').value = 0.3")
    assert page.evaluate(f"{figures}[1].renderers[1].glyph.fill_alpha.value") == 0.3
    show(page, 0, "Picture only")
    assert page.evaluate(f"{figures}[0].renderers.map((each) => each.visible)") == [True, False, False]


@pytest.mark.parametrize("gene", HOSTILE)
def test_names_are_text_and_no_code(page: Any, gene: str) -> None:
    choose(page, 0, gene)
    assert titles(page)[0] == f"A: {gene}, measured"
    text = hovered(page, 0, 5)
    assert f"{gene}, measured:" in text
    assert re.search(rf"gene:\s+{re.escape(gene)}", text)
    assert page.title() == "<script>alert(3)</script>"


def test_a_notebook_shows_both_views_whole(opened: Any, sections: ad.AnnData, tmp_path: Path) -> None:
    """Beside each other where a cell is wide, and below each other, in a frame that has grown, where it is not."""
    frame = stp.pl.explore(sections)._repr_html_()
    heights = {}
    for width in (1250, 700):
        path = tmp_path / f"{width}.html"
        path.write_text(f"<!DOCTYPE html><body><div style='width:{width}px'>{frame}</div></body>", encoding="utf-8")
        cell = opened.context.new_page()
        cell.goto(path.as_uri())
        inner = "document.querySelector('iframe').contentDocument.querySelector('.bk-Column')"
        grown = f"{inner} && {inner}.offsetHeight > 300 && document.querySelector('iframe').offsetHeight >= {inner}.offsetHeight"
        cell.wait_for_function(grown)
        heights[width] = cell.evaluate("document.querySelector('iframe').offsetHeight")
        cell.close()
    assert 800 <= heights[1250] < 1000
    assert 1200 < heights[700] < 2400


def test_nothing_went_wrong(page: Any) -> None:
    """After all of the above: no error, no warning, no dialog, nothing asked of a network."""
    assert page.errors == []


def test_codes_are_within_half_a_step_of_the_values() -> None:
    rng = np.random.default_rng(0)
    values = np.column_stack(
        [rng.normal(size=500) * 1e3, np.full(500, 3.7), rng.gamma(1, 1, 500), np.full(500, np.nan)]
    )
    values[7, :3] = np.nan, np.inf, np.nan
    codes, low, step = to_codes(values)
    assert codes.dtype == np.uint16
    finite = np.isfinite(values)
    np.testing.assert_array_equal(codes == MISSING, ~finite)
    back = low + step * codes
    spread = np.nanmax(np.where(finite, values, np.nan)[:, :3], axis=0) - np.nanmin(
        np.where(finite, values, np.nan)[:, :3], axis=0
    )
    assert (
        np.abs(back - values)[:, :3][finite[:, :3]]
        <= np.broadcast_to(spread / 131_000 + 1e-12, (500, 3))[finite[:, :3]]
    ).all()
    np.testing.assert_array_equal(back[finite[:, 1], 1], 3.7)


def test_page_is_small_whole_and_leaves_the_object_alone(sections: ad.AnnData, frozen: Any, tmp_path: Path) -> None:
    before = frozen(sections)
    found = stp.pl.explore(sections, tmp_path / "page.html", genes=["GENE1", "GENE3"], sample="A", columns=[])
    assert frozen(sections) == before
    text = (tmp_path / "page.html").read_text()
    assert text == found.html
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=[\"']?(https?:)?//", text)
    assert (found.sections, found.genes) == (["A"], ["GENE1", "GENE3"])
    assert 1.5e6 < len(text) < 2.5e6  # bokeh itself
    frames = []
    reader = HTMLParser()
    reader.handle_starttag = lambda tag, attributes: frames.append((tag, dict(attributes)["srcdoc"]))
    reader.feed(found._repr_html_())
    assert frames == [("iframe", found.html)]


def test_without_a_prediction_what_was_measured_is_shown(sections: ad.AnnData) -> None:
    plain = sections[:60].copy()
    for name in ("predicted", "predicted_std"):
        del plain.obsm[name]
    names, values, units = gene_values(plain, "predicted", ["GENE1"], None, "sample")
    assert (names, list(values), units) == (["GENE1"], ["measured"], {})
    np.testing.assert_array_equal(values["measured"], plain.X[:, [1]])
    assert stp.pl.explore(plain).genes == list(plain.var_names)


def test_the_page_begins_with_the_gene_that_varies_most_where_all_is_known() -> None:
    measured = np.array([[0.0, 1.0, 5.0, np.nan], [0.0, 3.0, -5.0, np.nan], [0.0, np.nan, 5.0, 1e9]])
    predicted = np.array([[9.0, 1.0, np.nan, 1.0], [-9.0, 1.0, np.nan, 2.0], [0.0, 1.0, 1.0, 2.0]])
    assert first_gene({"measured": measured, "predicted": predicted}, np.array([0, 1])) == 1
    assert first_gene({"measured": measured}, np.array([0, 1])) == 2
    assert first_gene({"predicted": predicted}, np.arange(3)) == 0
    assert first_gene({"measured": measured[:, 3:]}, np.array([0, 1])) == 0


def test_the_title_of_a_view_has_the_width_of_the_view(page: Any) -> None:
    boxes = page.evaluate(
        """Bokeh.documents[0].roots()[0].select({type: 'Figure'}).map((figure) => {
            const plot = Bokeh.index.find_one(figure)
            const bar = plot.canvas_view.parent.views.find_one(figure.toolbar).el.getBoundingClientRect()
            const frame = plot.canvas_view.el.getBoundingClientRect()
            return [bar.left, frame.left + plot.frame.bbox.right]
        })"""
    )
    assert all(bar >= edge - 1 for bar, edge in boxes)


def test_genes_that_were_only_measured_or_only_predicted(sections: ad.AnnData) -> None:
    part = sections[:60, 2:].copy()
    part.obsm["predicted"] = part.obsm["predicted"].drop(columns="GENE5")
    part.obsm["predicted_std"] = part.obsm["predicted_std"].drop(columns="GENE5")
    names, values, _ = gene_values(part, "predicted", ["GENE0", "GENE5", "GENE6"], None, "sample")
    known = {kind: np.isfinite(part).all(axis=0).tolist() for kind, part in values.items()}
    assert known == {
        "measured": [False, True, True], "predicted": [True, False, True], "uncertainty": [True, False, True],
    }  # fmt: skip
    np.testing.assert_array_equal(values["measured"][:, 1], sections.X[:60, 5])
    np.testing.assert_array_equal(values["predicted"][:, 0], sections.obsm["predicted"]["GENE0"][:60])


def test_columns_that_are_shown_and_how(sections: ad.AnnData) -> None:
    plain = sections[:60].copy()
    plain.obs["age"] = pd.array([None, *range(59)], dtype="Int64")
    plain.obs["barcode"] = plain.obs_names
    plain.obs["same"] = "x"
    plain.obs["yes"] = plain.obs["depth"] > 400
    plain.uns["domain_colors"] = np.array(["#112233", "#445566"])
    assert shown_columns(plain, None, "sample") == ["domain", "depth", "age", "yes"]
    entry, values = column_entry(plain, "age")
    assert entry == {"name": "age", "categories": None}
    assert np.isnan(values[0])
    np.testing.assert_array_equal(values[1:], np.arange(59))
    entry, values = column_entry(plain, "domain")
    assert entry["colors"] == ["#112233", "#445566"]
    assert [entry["categories"][code] for code in values] == plain.obs["domain"].tolist()
    plain.obs.loc["AAAC-0", "domain"] = np.nan
    plain.uns["domain_colors"] = ["red", "url(javascript:alert(4))"]
    entry, values = column_entry(plain, "domain")
    assert values[0] == MISSING
    assert all(re.fullmatch("#[0-9a-f]{6}", color, re.IGNORECASE) for color in entry["colors"])


def test_spatialdata_is_shown_as_anndata_is(sections: ad.AnnData) -> None:
    sdata = stp.io.to_spatialdata(sections[:60].copy())
    found = stp.pl.explore(sdata, genes=["GENE1"])
    assert found.sections == ["A"]
    assert "data:image/jpeg;base64," in found.html


def test_the_prediction_that_there_is_is_shown(sections: ad.AnnData) -> None:
    scores = ad.AnnData(
        obs=sections.obs[["sample"]], obsm={name: sections.obsm[name] for name in ("spatial", "predicted")}
    )
    scores.obsm["predicted_ridge"] = scores.obsm.pop("predicted")
    write_record(scores, "predicted_ridge", {"genes": list(sections.var_names)})
    assert stp.pl.explore(scores).genes == list(sections.var_names)
    with pytest.raises(
        KeyError, match="found none; choose among none, or name another prediction with `key=`: predicted_ridge"
    ):
        stp.pl.explore(scores, key="predicted")
    scores.obsm["predicted_mlp"] = scores.obsm["predicted_ridge"].copy()
    write_record(scores, "predicted_mlp", {"genes": list(sections.var_names)})
    with pytest.warns(
        UserWarning, match=r"shown is the prediction 'predicted_ridge'; others, for `key=`: predicted_mlp"
    ):
        stp.pl.explore(scores)


@pytest.mark.parametrize("form", [np.asarray, csr_matrix])
def test_of_too_many_genes_those_that_vary_most_are_shown(
    form: Any, sections: ad.AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, n = np.random.default_rng(0), sections.n_obs
    spread = rng.permutation(np.arange(1.0, 41.0))
    many = ad.AnnData(form(rng.normal(size=(n, 40)) * spread), obs=sections.obs[["sample"]])
    many.obsm["spatial"] = sections.obsm["spatial"]
    monkeypatch.setattr("stpredict.pl._explore_values._MOST_BYTES", 2 * n * 10)
    with pytest.warns(UserWarning, match=r"a page holds 10 of these 40 genes: shown are those that vary most"):
        found = stp.pl.explore(many)
    true = np.argsort(-many.to_df().std().to_numpy())[:10]
    assert found.genes == list(many.var_names[np.sort(true)])


def test_what_cannot_be_shown_is_refused(sections: ad.AnnData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="measured or predicted; found NOPE"):
        stp.pl.explore(sections, genes=["GENE1", "NOPE"])
    with pytest.raises(ValueError, match="genes"):
        stp.pl.explore(sections, genes=["GENE1", "GENE1"])
    with pytest.raises(KeyError, match="columns="):
        stp.pl.explore(sections, columns=["nope"])
    with pytest.raises(KeyError, match="section"):
        stp.pl.explore(sections, sample="nope")
    with pytest.raises(OSError, match="expected room to write"):
        stp.pl.explore(sections, tmp_path / "no" / "folder.html", genes=["GENE1"])
    monkeypatch.setattr("stpredict.pl._explore_values._MOST_BYTES", 10_000)
    with pytest.raises(ValueError, match=r"name fewer with `genes=`"):
        stp.pl.explore(sections, genes=list(sections.var_names))
