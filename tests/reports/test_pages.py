"""The report: complete on its own, escaped, and true to the numbers it is given."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from openvjepa.grid import TokenGrid
from openvjepa.reports import charts as figures
from openvjepa.reports import pages as report

EVIL = '<script>alert("x")</script>&'
VOID = {"meta", "img", "br", "path", "use", "rect", "image"}


class Page(HTMLParser):
    """Collects what a page holds; fails on tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.unnamed: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.links += [values[key] or "" for key in ("href", "src", "xlink:href") if key in values]
        if (tag == "img" and not values.get("alt")) or (tag == "svg" and not values.get("aria-label")):
            self.unnamed.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def sections() -> list[report.Section]:
    """One of each, with hostile names wherever a name goes in."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 16, 24, 3), np.uint8)
    grid = TokenGrid(2, 2, 3)
    rows = [{"step": i, "loss": 1 / (i + 1), "rankme": float(i)} for i in range(40)]
    return [
        report.accuracy_table({EVIL: {"ours": {"linear": 61.25}, EVIL: {"linear": 43.0}}}, {EVIL: 12.5}),
        report.training_curves(rows),
        report.confusion_matrices({EVIL: ([[3, 1], [0, 2]], [EVIL, "b"])}),
        report.feature_pca([(EVIL, frames, {EVIL: rng.normal(size=(12, 8))})], grid),
        report.predictions([report.Prediction(EVIL, frames, [(EVIL, 0.75), ("b", 0.25)], truth=EVIL)]),
        report.run_facts({EVIL: EVIL, "config": {"a": {EVIL: 0.1}}}),
    ]


def test_page_is_well_formed_escaped_and_needs_nothing_from_outside(tmp_path: Path) -> None:
    path = report.write_report(tmp_path / "deep" / "report.html", EVIL, sections(), lead=EVIL)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert page.unnamed == []
    assert page.links
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert not re.findall(r"url\((?!#)", text)
    assert "@import" not in text
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]  # no half-written file stays


def test_ids_do_not_repeat(tmp_path: Path) -> None:
    charts = [figures.line_chart("same", [0, 1], {"y": [0, 1]}) for _ in range(2)]
    text = report.write_report(tmp_path / "r.html", "t", [*sections(), report.Section("c", charts[0])]).read_text(
        "utf-8"
    )
    ids = [name for name in re.findall(r' id="([^"]+)"', text) if not name.startswith(("m", "p", "image"))]
    assert len(ids) == len(set(ids))


def test_charts_follow_the_color_of_the_page() -> None:
    chart = figures.line_chart("loss", [0, 1, 2], {"loss": [3, 2, 1]})
    assert "currentColor" in chart
    assert figures._INK not in chart
    assert "loss from 3 to 1" in chart


def test_a_report_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    report.write_report(path, "first", [])
    report.write_report(path, "second", [])
    assert "<h1>second</h1>" in path.read_text(encoding="utf-8")


def test_accuracy_table_shows_values_chance_and_differences() -> None:
    results = {
        "motion": {
            "pretrained": {"linear": 61.2, "knn": 30.0},
            "untrained": {"linear": 43.0, "knn": 31.0},
            "pixels": {"linear": 61.2},
        }
    }
    body = report.accuracy_table(results, {"motion": 12.5}).body
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", body)
    assert cells == ["61.2", "30.0", "43.0", "31.0", "61.2", "&ndash;", "+18.2", "&minus;1.0", "+0.0", "&ndash;"]
    assert "chance 12.5 %" in body
    assert 'class="better">+18.2' in body
    assert 'class="worse">&minus;1.0' in body


def test_training_curves_use_only_rows_that_have_the_key() -> None:
    rows = [{"step": 0, "rankme": 5.0}, {"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.4, "rankme": float("nan")}]
    body = report.training_curves(rows).body
    assert body.count("<svg") == 1  # rankme has a single finite value: no line
    assert "loss from 0.5 to 0.4" in body


def test_training_curves_without_rows() -> None:
    assert "No metrics" in report.training_curves([]).body


def test_confusion_chart_gives_per_cent_of_rows() -> None:
    chart = figures.confusion_chart("c", [[3, 1], [0, 2]], ["a", "b"])
    assert "83.3 % on the diagonal" in chart  # 5 of 6
    shown = re.findall(r">\s*(\d+)\s*</text>", chart)
    assert sorted(shown) == ["100", "25", "75"]


def test_confusion_chart_of_an_empty_class_and_of_many_classes() -> None:
    assert "50.0 %" in figures.confusion_chart("c", [[1, 1], [0, 0]], ["a", "b"])
    assert "<svg" in figures.confusion_chart("c", np.eye(60), [str(i) for i in range(60)])


def test_png_holds_the_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    data = re.search(r"base64,([^\"]+)", figures.png(pixels, "x"))
    assert data
    back = matplotlib.image.imread(io.BytesIO(base64.b64decode(data[1])), format="png")
    assert np.array_equal(np.rint(back[..., :3] * 255).astype(np.uint8), pixels)


def test_strip_and_enlarge() -> None:
    frames = np.arange(2 * 2 * 3 * 3, dtype=np.uint8).reshape(2, 2, 3, 3)
    row = figures.strip(frames, gap=1)
    assert row.shape == (2, 7, 3)
    assert np.array_equal(row[:, :3], frames[0])
    assert (row[:, 3] == 255).all()
    assert np.array_equal(row[:, 4:], frames[1])
    assert figures.enlarge(frames, 5).shape == (2, 6, 9, 3)
    assert np.array_equal(figures.enlarge(frames, 5)[:, ::3, ::3], frames)


def test_pca_colors_find_the_main_direction() -> None:
    grid = TokenGrid(2, 3, 4)
    rng = np.random.default_rng(0)
    along = np.linspace(-1, 1, grid.tokens)
    tokens = along[:, None] * np.array([[3.0, 4.0, 0.0, 0.0, 0.0]]) + 1e-3 * rng.normal(size=(grid.tokens, 5))
    colors = figures.pca_colors(tokens, grid)
    assert colors.shape == (2, 3, 4, 3)
    red = colors[..., 0].ravel().astype(int)
    assert (np.diff(red) >= 0).all()  # token order kept, first direction is red
    assert (red[0], red[-1]) == (0, 255)


def test_pca_colors_of_few_channels_and_of_equal_tokens() -> None:
    grid = TokenGrid(1, 2, 2)
    assert (figures.pca_colors(np.ones((4, 8)), grid) == 0).all()
    assert figures.pca_colors(np.arange(8.0).reshape(4, 2), grid).shape == (1, 2, 2, 3)


def test_running_mean_against_brute_force() -> None:
    values = np.random.default_rng(0).normal(size=30)
    values[[0, 7, 8]] = np.nan
    ours = figures._running_mean(values, 4)
    for i in range(30):
        window = values[max(0, i - 3) : i + 1]
        if np.isfinite(window).any():
            assert ours[i] == pytest.approx(np.nanmean(window))
        else:
            assert np.isnan(ours[i])


def test_predictions_mark_right_and_wrong() -> None:
    frames = np.zeros((1, 8, 8, 3), np.uint8)
    items = [report.Prediction("v", frames, [("a", 0.9), ("b", 0.1)], truth) for truth in ("a", "b", None)]
    body = report.predictions(items).body
    assert body.count(">right<") == 1
    assert body.count(">wrong<") == 1
    assert "90.0 %" in body


def test_run_facts_nest() -> None:
    body = report.run_facts({"seconds": 1.23456789, "config": {"model": {"arch": "vit_tiny"}}}).body
    assert "1.23457" in body
    assert "model:\n  arch: vit_tiny" in body


def test_no_minus_before_a_difference_of_nothing() -> None:
    table = report.accuracy_table(
        {"motion": {"ours": {"linear": 33.33}, "theirs": {"linear": 33.34}}}, {"motion": 33.3}
    ).body
    assert "+0.0" in table
    assert "&minus;0.0" not in table
