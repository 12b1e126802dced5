"""A report can be read by everyone: names, contrast, keyboard, screens, forced colors, paper."""

from collections import Counter

import pytest
from helpers.browser import FAINT, needs_browser
from helpers.cards import ALIGNED, TRAINED, write
from helpers.records import write_evaluation, write_retrieval, write_search

from adaptermix.merging.merge import merge
from adaptermix.reports.page import report
from adaptermix.settings.merging import MergeSettings
from adaptermix.settings.reports import ReportSettings
from adaptermix.settings.training import TrainAlignSettings
from adaptermix.training.report import recorded

pytestmark = needs_browser

UTTERANCES = {
    "en": ["wake me at five", "a long question " * 30],
    "cy": ["deffra fi am bump", "helo"],
    "sw": ["niamshe saa kumi na moja", "habari"],
}
NAMED = {"image", "figure", "link", "button", "combobox", "searchbox", "listbox", "option", "table"}
NAMED |= {"region", "navigation", "search", "heading", "columnheader", "rowheader"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A report with every kind of section: several systems, a search, retrieval, adapters."""
    folder = tmp_path_factory.mktemp("whole")
    write_evaluation(folder / "eval", UTTERANCES, systems=("task", "scaled", "merged"))
    write_search(folder / "merged.search")
    write_retrieval(folder / "retrieval", systems=("task", "align", "late", "merged"))
    write(folder / "task.safetensors", TRAINED)
    for seed, (name, layer) in enumerate({"align": "bottom", "late": "3"}.items(), start=1):
        settings = {"settings": recorded(TrainAlignSettings(layer=layer))}
        write(folder / name, ALIGNED | settings, seed=seed)
    for name, parts in (
        ("merged", ["task.safetensors", "align"]),
        ("scaled", ["task.safetensors"]),
    ):
        weights = ",".join(["0.5"] * len(parts))
        settings = MergeSettings(weights=weights, out=folder / f"{name}.safetensors")
        merge([folder / part for part in parts], settings)
    summary = report([folder], ReportSettings(out=folder / "report.html"))
    return summary, (folder / "report.html").as_uri()


def open_all(page, whole):
    """Open the page, unfold everything, and choose an example."""
    page.goto(whole[1])
    page.wait_for_selector("#list .row")
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    page.locator("#list").press("Home")
    return page


def tree(page):
    """The role and name of everything that a screen reader is told of."""
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    seen = [node for node in nodes if not node["ignored"]]
    return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in seen]


def test_everything_has_a_name_and_landmarks_have_their_own(page, whole):
    found = tree(open_all(page, whole))
    assert {"image", "figure", "link", "combobox", "listbox", "table"} <= {
        role for role, _ in found
    }
    assert [role for role, name in found if role in NAMED and not name.strip()] == []
    landmarks = Counter(item for item in found if item[0] in ("region", "navigation", "search"))
    assert [item for item, count in landmarks.items() if count > 1] == []


def test_every_plot_has_its_values_as_a_table(page, whole):
    open_all(page, whole)
    figures = page.locator("figure").all()
    assert [figure.get_attribute("id") for figure in figures] == whole[0].plots
    assert [f.get_attribute("id") for f in figures if f.get_by_role("table").count() != 1] == []
    for inside in ("tbody tr", ".subtitle:not(:empty)", "a[download]"):
        missing = [f.get_attribute("id") for f in figures if f.locator(inside).count() == 0]
        assert missing == [], inside


def test_a_table_is_downloaded_with_all_digits(page, whole):
    open_all(page, whole)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download answer-values.csv").click()
    assert download.value.suggested_filename == "answer-values.csv"
    head, first = download.value.path().read_text(encoding="utf-8").splitlines()[:2]
    assert head == ',group,task,merged,difference,95% interval,p,"p, Holm"'
    assert first == "en,trained languages,0.25,0.75,0.5,+40.0 to +60.0,0.001,0.002"
    assert page.said == []


def test_headings_are_in_order(page, whole):
    open_all(page, whole)
    levels = page.evaluate(
        "[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map((h) => +h.tagName[1])"
    )
    assert levels[:3] == [1, 2, 3]
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(page, whole, scheme):
    page.emulate_media(color_scheme=scheme)
    open_all(page, whole)
    assert page.evaluate(FAINT) == []
    page.evaluate(
        "document.querySelector('.note').style.setProperty('color', 'rgb(128, 128, 128)')"
    )
    assert len(page.evaluate(FAINT)) == 1, "a faint text is found"


def test_the_first_screen_of_a_phone_has_the_answer_and_the_plot(page, whole):
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(whole[1])
    bottom = "(name) => document.querySelector(name).getBoundingClientRect().bottom"
    assert "Nothing calls" in page.inner_text("#answer p:nth-of-type(3)")
    assert page.evaluate(bottom, "#answer p:nth-of-type(3)") < 500
    assert page.evaluate(bottom, "#answer-differences .narrow") < 844
    assert page.evaluate(bottom, "nav") < 120, "links to sections take one line"


@pytest.mark.parametrize("width", [320, 390, 640, 768, 1280, 1920])
def test_nothing_is_wider_than_the_screen(page, whole, width):
    """640 pixels is also a screen of 1280 at 200%, 320 one at 400%."""
    page.set_viewport_size({"width": width, "height": 800})
    open_all(page, whole)
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_the_keyboard_reaches_everything_and_shows_where_it_is(page, whole):
    page.goto(whole[1])
    page.wait_for_selector("#list .row")
    stops = []
    while len(stops) < 100:
        page.keyboard.press("Tab")
        stop = page.evaluate(
            """() => {
              const at = document.activeElement, style = getComputedStyle(at);
              const isSeen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
              return at === document.body ? null : [at.id || at.textContent.trim(), isSeen];
            }"""
        )
        if stop is None:
            break
        stops.append(stop)
    names = [name for name, _ in stops]
    assert names[0] == "Skip to the content"
    controls = [f"filter-{name}" for name in ("lang", "before", "after", "show", "search")]
    assert names[-6:] == [*controls, "list"]
    assert [name for name, is_seen in stops if not is_seen] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_forced_colors_leave_texts_and_the_chosen_example(page, whole, scheme):
    page.emulate_media(forced_colors="active", color_scheme=scheme)
    open_all(page, whole)
    ink = "getComputedStyle(document.querySelector('svg .mark text')).fill"
    assert page.evaluate(ink) == page.evaluate("getComputedStyle(document.body).color")
    assert page.evaluate(FAINT) == []
    chosen = "getComputedStyle(document.querySelector('.row[aria-selected=true]')).outlineStyle"
    assert page.evaluate(chosen) == "solid"


def test_panels_of_a_plot_may_go_to_the_next_sheet_of_paper(page, whole):
    """A plot kept together on paper leaves its heading alone on the sheet before."""
    page.goto(whole[1])
    page.emulate_media(media="print")
    together = "(name) => getComputedStyle(document.querySelector(name)).breakInside"
    assert page.evaluate(together, ".panels") == "auto"
    assert page.evaluate(together, ".panels > svg") == "avoid"
    after = "(name) => getComputedStyle(document.querySelector(name)).breakAfter"
    assert [page.evaluate(after, name) for name in ("h2", "h3", ".subtitle")] == ["avoid"] * 3
