"""Parsed report pages, and a study with names that break a page without escaping."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from studies import write_job

from catsdogs.study.plan import write_plan

EVIL = '<script>window.hacked = 1</script><img src="x" onerror="window.hacked = 1">'

# Elements that separate text, and elements without an end tag.
CELLS = {"td", "th", "dt", "dd", "li", "p", "div", "h1", "h2", "h3"}
VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}


class Document(HTMLParser):
    """Elements of a page with their attributes and text; unbalanced tags are errors."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(file.read_text(encoding="utf-8"))
        self.close()
        assert not self._open, [tag for tag, _ in self._open]

    def handle_starttag(self, tag, attrs):
        text: list[str] = []
        self.elements.append((tag, {name: value or "" for name, value in attrs}, text))
        if tag in CELLS:
            self.handle_data(" ")
        if tag not in VOID:
            self._open.append((tag, text))

    def handle_endtag(self, tag):
        opened, _ = self._open.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, data):
        for _, text in self._open:
            text.append(data)

    def all(self, tag, **attributes):
        return [
            (present, " ".join("".join(text).split()))
            for name, present, text in self.elements
            if name == tag and attributes.items() <= present.items()
        ]

    def text(self, tag, **attributes):
        return [text for _, text in self.all(tag, **attributes)]

    @property
    def rows(self):
        """Texts of the rows of the leaderboard."""
        return [text for attributes, text in self.all("tr") if "data-status" in attributes]

    @property
    def body(self):
        """Visible text, without scripts."""
        return self.text("main")[0]


def assert_fetches_nothing(document: Document, folder: Path) -> None:
    """Assert that a page loads nothing, and that its links point to its elements or to files in `folder`."""
    policy = document.all("meta", **{"http-equiv": "Content-Security-Policy"})[0][0]["content"]
    assert policy.startswith("default-src 'none';")
    assert not re.search("unsafe-eval|http", policy)
    identifiers = [attributes["id"] for _, attributes, _ in document.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for tag, attributes, _ in document.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert attributes.get("src", "data:").startswith("data:"), attributes
        address = attributes.get("href", "#main")
        assert address[1:] in identifiers if address[0] == "#" else (folder / unquote(address)).is_file(), address
        assert not any(name.startswith("on") for name in attributes)


def write_hostile(study):
    """Write jobs in every state with names and strings that break a page without escaping."""
    long = "x" * 300
    choices = {"backbone": EVIL, "augmentation": long, "schedule": "a\nb\u2028c", "label_smoothing": "{{ 7 * 7 }}"}
    write_job(study, choices, name=f"<script>window.hacked=1<{'n' * 180}", trials=12, failed_trials=2)
    more = {"status": "failed", "error": EVIL + "\n</pre>", "config": {EVIL: EVIL + long}}
    write_job(study, {**choices, "augmentation": "%{x}"}, name="q'\"`\\", seed=3, **more)
    write_job(study, {**choices, "schedule": "d"}, name="busy", seed=4, status="running", planned=9)
    write_plan(study, ["busy", "later"], [])
    return study
