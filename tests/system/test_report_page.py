"""The page of a report in a real browser."""

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from helpers.browser import BROWSER, needs_browser
from helpers.records import write_evaluation, write_retrieval

from adaptermix.files.text import without_lone_surrogates
from adaptermix.reports.page import report
from adaptermix.settings.reports import ReportSettings

if BROWSER is not None:
    from playwright.sync_api import expect
pytestmark = needs_browser

HOSTILE = [
    "<script>document.title='taken'</script>",
    "</script><script>document.title='taken'</script>",
    "<img src=http://127.0.0.1:9/x onerror=\"document.title='taken'\">",
    "<!-- <script>",
    "]]>--></textarea><style>body{display:none}</style>",
    "line\u2028and\u2029paragraph",
    "half a character: \ud83d",
    "nul: \x00 end",
    "&lt;b&gt; {{ 7 * 7 }} ${7 * 7} `",
]
MANY = 60_000
UTTERANCES = {"en": ["wake me"], "cy": ["deffra fi"]}


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory):
    """A report whose every name, prompt and answer tries to be more than text."""
    folder = tmp_path_factory.mktemp("hostile")
    examples = {"en": HOSTILE, "cy": [f"{text} again" for text in HOSTILE]}
    systems = ("base", "<b onclick=x>merged<b>")
    answer = lambda system, number: HOSTILE[number] if system else "time: five"  # noqa: E731
    write_evaluation(folder / "eval", examples, systems=systems, answer=answer)
    write_retrieval(folder / "retrieval", langs=("en", "<script>alert(1)</script>"))
    settings = ReportSettings(title="</title><script>x</script>", out=folder / "report.html")
    report([folder], settings)
    return folder / "report.html"


def visit(page, path):
    page.goto(path.as_uri())
    page.wait_for_selector("#list .row")
    return page


def shown(page):
    return page.locator("#list .row").all_inner_texts()


def test_hostile_texts_stay_texts_and_nothing_is_asked_for(page, hostile_page):
    visit(page, hostile_page)
    assert page.title() == "</title><script>x</script>"
    assert page.locator("figure").count() >= 5
    assert page.locator("figure svg").count() == page.locator("svg").count() >= 5
    assert page.locator("svg :not(svg, g, rect, line, path, circle, text, title)").count() == 0
    assert page.locator("#list img, #list script, #list style, section b").count() == 0
    page.select_option("#filter-lang", label="en")
    for number, text in enumerate(HOSTILE):
        page.locator("#list").press("Home") if number == 0 else page.locator("#list").press(
            "ArrowDown"
        )
        answers = page.locator("#detail dd").all_text_contents()
        assert answers[0] == answers[-1] == without_lone_surrogates(text)
    assert page.title() == "</title><script>x</script>"
    assert page.asked == [hostile_page.as_uri()]
    assert page.said == []


@pytest.fixture
def listener():
    """A server on this machine that keeps the paths it is asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_the_policy_forbids_scripts_and_requests(page, hostile_page, listener):
    visit(page, hostile_page)
    place = f"http://127.0.0.1:{listener.server_port}"
    refused = page.evaluate(
        """async (place) => {
          const image = new Image();
          const broken = new Promise((done) => { image.onerror = done; });
          image.src = place + '/image';
          const script = document.createElement('script');
          script.textContent = "document.title = 'taken'";
          const handler = document.createElement('p');
          handler.setAttribute('onclick', "document.title = 'taken'");
          document.body.append(image, script, handler);
          handler.click();
          await broken;
          return fetch(place + '/fetch').then(() => 'sent', () => 'refused');
        }""",
        place,
    )
    assert refused == "refused"
    assert page.title() != "taken"
    assert listener.asked == []
    page.request.get(place + "/control")
    assert listener.asked == ["/control"], "what is sent arrives"


def test_filters_show_what_they_say(page, tmp_path):
    examples = {"en": ["alpha", "beta", "gamma", "delta"], "cy": ["Alffa", "beta"]}
    right = {0: {0, 1}, 1: {1, 2}}  # by system: wrong, mended and broken examples

    def answer(system, number):
        return "time: five" if number in right[system] else f"no {number}"

    write_evaluation(tmp_path / "eval", examples, answer=answer)
    report([tmp_path / "eval"], ReportSettings(out=tmp_path / "r.html"))
    visit(page, tmp_path / "r.html")

    def prompts():
        return page.locator("#list .row span:nth-child(2)").all_inner_texts()

    def show(kind):
        page.select_option("#filter-show", kind)
        return prompts()

    assert prompts() == ["alpha", "gamma", "Alffa"], "it opens on what changed"
    assert page.inner_text("#count") == "3 of 6 examples, 2 right before, 1 right after"
    assert page.locator("#columns span").all_inner_texts() == ["", "prompt", "base", "merged"]
    assert show("all") == ["alpha", "beta", "gamma", "delta", "Alffa", "beta"]
    assert show("changed") == ["alpha", "gamma", "Alffa"]
    assert show("unchanged") == ["beta", "delta", "beta"]
    assert show("right") == ["beta", "gamma", "beta"]
    assert show("wrong") == ["alpha", "delta", "Alffa"]
    assert show("fixed") == ["gamma"]
    assert show("broken") == ["alpha", "Alffa"]
    assert show("malformed") == ["alpha", "delta", "Alffa"]
    page.select_option("#filter-lang", label="cy")
    assert prompts() == ["Alffa"]
    page.select_option("#filter-show", "all")
    page.fill("#filter-search", "ALFF")
    expect(page.locator("#list .row")).to_have_count(1)
    assert prompts() == ["Alffa"]
    assert page.inner_text("#count") == "1 of 6 examples, 1 right before, 0 right after"
    page.fill("#filter-search", "nothing has this")
    expect(page.locator("#list .row")).to_have_count(0)
    assert page.inner_text("#count") == "0 of 6 examples, 0 right before, 0 right after"
    page.locator("#list").press("ArrowDown")
    assert page.said == []


def test_an_answer_of_a_million_letters_is_whole_below_and_short_in_the_list(page, tmp_path):
    text = "word " * 200_000 + "end"
    examples = {"en": [text, "hello"]}
    write_evaluation(tmp_path / "eval", examples, answer=lambda system, number: text)
    report([tmp_path / "eval"], ReportSettings(out=tmp_path / "r.html"))
    visit(page, tmp_path / "r.html")
    assert max(map(len, page.locator("#list .row span").all_text_contents())) < 1000
    page.locator("#list").press("Home")
    assert page.locator("#detail dd").last.text_content() == text
    page.fill("#filter-search", "word end")
    expect(page.locator("#count")).to_contain_text("2 of 2")


def test_it_opens_on_everything_where_nothing_changed(page, tmp_path):
    write_evaluation(tmp_path / "eval", UTTERANCES, answer=lambda system, number: "time: five")
    report([tmp_path / "eval"], ReportSettings(out=tmp_path / "r.html"))
    visit(page, tmp_path / "r.html")
    assert page.input_value("#filter-show") == "all"
    assert page.inner_text("#count") == "2 of 2 examples, 2 right before, 2 right after"
    assert not page.locator("#run-label").is_visible(), "there is one run"


def test_values_are_beside_the_pointer_and_below_the_plot(page, tmp_path):
    write_evaluation(tmp_path / "eval", UTTERANCES)
    report([tmp_path / "eval"], ReportSettings(out=tmp_path / "r.html"))
    visit(page, tmp_path / "r.html")
    assert not page.locator("#tip").is_visible()
    page.locator("#answer-differences .wide .mark").nth(1).hover()
    assert page.inner_text("#tip") == "English (en): +50.0 [+40.0, +60.0]"
    table = page.locator("#answer-values")
    assert not table.is_visible()
    page.locator("#answer-differences summary").click()
    assert table.is_visible()
    assert page.said == []


def test_all_but_browsing_works_without_a_script(browser, tmp_path):
    write_evaluation(tmp_path / "eval", UTTERANCES)
    report([tmp_path / "eval"], ReportSettings(out=tmp_path / "r.html"))
    page = browser.new_page(java_script_enabled=False)
    page.goto((tmp_path / "r.html").as_uri())
    assert page.locator("#answer .answer").inner_text().startswith("Yes: merged scores 50.0")
    title = page.locator("#answer-differences .wide .mark title").nth(1)
    assert title.text_content() == "English (en): +50.0 [+40.0, +60.0]"
    page.locator("#answer-differences summary").click()
    assert page.locator("#answer-values").is_visible()
    assert page.locator("noscript").inner_text().startswith("Browsing the 2 examples needs")
    page.close()


def test_a_screen_reader_gets_names_of_plots_and_headings_of_tables(page, tmp_path):
    write_evaluation(tmp_path / "eval", UTTERANCES)
    report([tmp_path / "eval"], ReportSettings(out=tmp_path / "r.html"))
    visit(page, tmp_path / "r.html")
    name = "merged against base, by language"
    figure = page.get_by_role("figure", name=name)
    assert figure.get_by_role("img", name=name).count() == 1, "one of the two widths"
    assert page.get_by_role("heading", level=2).first.inner_text() == "Did “merged” help?"
    glance = page.get_by_role("table", name="eval: massive test, 2 languages")
    assert glance.get_by_role("columnheader").count() == 4
    assert glance.get_by_role("rowheader").all_inner_texts() == ["base", "merged"]


@pytest.mark.parametrize(
    ("width", "scheme"), [(360, "light"), (768, "dark"), (1280, "dark"), (1920, "light")]
)
def test_the_page_fits_screens_and_the_dark(page, hostile_page, width, scheme):
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    visit(page, hostile_page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    color = "getComputedStyle(document.querySelector('svg .mark text')).fill"
    assert page.evaluate(color) == page.evaluate("getComputedStyle(document.body).color")
    drawn = page.locator("#answer-differences .plot")
    assert [plot.is_visible() for plot in drawn.all()] == [width >= 704, width < 704]
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back == ("rgb(22, 24, 29)" if scheme == "dark" else "rgb(255, 255, 255)")


def test_paper_has_the_plots_and_no_controls(page, hostile_page):
    visit(page, hostile_page)
    page.emulate_media(media="print")
    assert page.locator("svg").first.is_visible()
    assert page.locator("#answer-values").is_visible(), "paper cannot unfold"
    assert not page.locator("#browser").is_visible()
    assert not page.locator("nav").is_visible()


def test_sixty_thousand_examples_are_browsed_without_waiting(page, tmp_path, capsys):
    langs = [f"l{number}" for number in range(20)]
    prompt = "example {} asks to be woken at five in the morning, every day but sunday"
    examples = {lang: [prompt.format(n) for n in range(MANY // len(langs))] for lang in langs}
    write_evaluation(
        tmp_path / "eval",
        examples,
        answer=lambda system, n: "time: five" if system or n % 2 else f"person: {n}",
    )
    started = time.perf_counter()
    summary = report([tmp_path / "eval"], ReportSettings(out=tmp_path / "r.html"))
    made = time.perf_counter() - started
    visit(page, tmp_path / "r.html")
    load = page.evaluate("document.body.dataset.loadMs")
    times = {}
    for name, act in {
        "all": lambda: page.select_option("#filter-show", "all"),
        "changed": lambda: page.select_option("#filter-show", "changed"),
        "first search": lambda: page.fill("#filter-search", "example 77 "),
        "search": lambda: page.fill("#filter-search", "example 1234 "),
    }.items():
        before = page.inner_text("#count")
        act()
        expect(page.locator("#count")).not_to_have_text(before)
        times[name] = float(page.evaluate("document.body.dataset.filterMs"))
    assert page.inner_text("#count") == "20 of 60,000 examples, 0 right before, 20 right after"
    page.fill("#filter-search", "")
    expect(page.locator("#count")).to_contain_text("30,000 of")
    page.locator("#list").press("End")
    assert "example 2998 " in shown(page)[-1]
    assert page.locator("#list .row").count() < 60
    with capsys.disabled():
        sys.stdout.write(
            f"\n{summary.examples:,} examples: {summary.bytes / 1e6:.1f} MB made in {made:.1f} s, "
            f"loaded in {load} ms, filtered in {times} ms\n"
        )
    assert max(times.values()) < 5000
