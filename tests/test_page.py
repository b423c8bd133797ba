"""The page as a document: complete, self-contained, right for every study. What it does is tested in test_browser."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from studies import CHOICES, IMAGES, ids, write_final, write_job, write_study
from test_gallery import write_images, write_split

import catsdogs.comparison.page as page_module
from catsdogs.comparison.answer import answer
from catsdogs.comparison.evidence import read_evidence
from catsdogs.comparison.page import write_report
from catsdogs.comparison.tables import TITLES
from catsdogs.files import read_json, write_json
from catsdogs.study import write_leaderboard, write_plan

TEMPLATE = Path(page_module.__file__).with_name("template")

# Elements that begin something new, and those that have no end tag.
CELLS = {"td", "th", "dt", "dd", "li", "p", "div", "h1", "h2", "h3"}
VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}


class Document(HTMLParser):
    """Every element of a page with its attributes and all text in it, tags balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(html)
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
            (found, " ".join("".join(text).split()))
            for name, found, text in self.elements
            if name == tag and all(found.get(key.rstrip("_")) == value for key, value in attributes.items())
        ]

    def text(self, tag, **attributes):
        return [text for _, text in self.all(tag, **attributes)]

    @property
    def body(self):
        """What a reader sees, without scripts."""
        start = next(i for i, (tag, _, _) in enumerate(self.elements) if tag == "main")
        return " ".join("".join(self.elements[start][2]).split())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished study with a final model, its page and the folder of both."""
    study = write_study(tmp_path_factory.mktemp("studies") / "night", trials=2)
    write_final(study)
    write_report([study], study / "report.html")
    return study


@pytest.fixture(scope="module")
def document(whole):
    return Document((whole / "report.html").read_text(encoding="utf-8"))


def page_of(*studies, **more) -> Document:
    output = studies[0].with_name("page.html")
    write_report(list(studies), output, **more)
    return Document(output.read_text(encoding="utf-8"))


def row_of(document, name: str) -> str:
    return next(text for text in document.text("tr") if name in text)


def assert_fetches_nothing(document: Document, folder: Path) -> None:
    """Also: links of the page lead to elements of it, or to files beside it."""
    policy = next(a["content"] for a, _ in document.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    assert "unsafe-eval" not in policy
    assert "http" not in policy
    identifiers = [attributes["id"] for _, attributes, _ in document.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for tag, attributes, _ in document.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert attributes.get("src", "data:").startswith("data:"), attributes
        address = attributes.get("href", "#main")
        assert address[1:] in identifiers if address.startswith("#") else (folder / address).is_file(), address
        assert not any(name.startswith("on") for name in attributes)


def test_nothing_is_fetched(whole, document):
    assert_fetches_nothing(document, whole)
    # Nor does what is ours; Plotly's own code names addresses that only maps would use.
    for file in TEMPLATE.iterdir():
        assert not re.search(r"https?:|url\(|@import", file.read_text()), file


def test_figures_are_json_that_no_parser_ends_early(document):
    figures = [text for a, text in document.all("script", type="application/json")]
    assert len(figures) > 12
    for text in figures:
        assert not set("<>&\u2028\u2029") & set(text)
        # The page lays its own template over all.
        assert not json.loads(text).get("layout", {}).get("template")
    drawn = [a["data-figure"] for a, _ in document.all("div") if a.get("class") == "plot"]
    assert sorted([*drawn, "themes"]) == sorted(a["id"] for a, _ in document.all("script", type="application/json"))


def test_who_cannot_see_finds_the_way(document):
    levels = [int(tag[1]) for tag, _, _ in document.elements if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
    identifiers = [attributes["id"] for _, attributes, _ in document.elements if "id" in attributes]
    for _, attributes, _ in document.elements:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert attributes.get(name) is None or attributes[name] in identifiers
    assert {"header", "nav", "main", "footer"} <= {tag for tag, _, _ in document.elements}
    assert len(document.all("caption")) == len(document.all("table"))
    for attributes, _ in document.all("div"):
        if attributes.get("class", "").startswith("table"):
            assert attributes["role"] == "region"
            assert attributes["tabindex"] == "0"
            assert "aria-label" in attributes or "aria-labelledby" in attributes
        if attributes.get("class") == "plot":
            assert attributes["role"] == "img"
            assert len(attributes["aria-label"]) > 30
    for attributes, text in document.all("button"):
        assert text or attributes.get("aria-label") or attributes["id"] == "theme"
    assert all(attributes.get("alt") for attributes, _ in document.all("img"))
    sorted_by = [text for attributes, text in document.all("th") if attributes.get("aria-sort") == "ascending"]
    assert sorted_by == ["Log loss"]


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_has_contrast_in_both_themes():
    css = (TEMPLATE / "report.css").read_text()
    colours = re.findall(r"--([a-z-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", css)
    assert len(colours) == len(re.findall(r"^  --[a-z-]+: .*#", css, re.MULTILINE)) > 10
    for theme in ({name: light for name, light, _ in colours}, {name: dark for name, _, dark in colours}):
        pairs = [(text, paper) for text in ("text", "quiet", "accent", "bad") for paper in ("paper", "raised")]
        pairs += [(name, f"{name}-paper") for name in ("accent", "good", "bad", "wait")]
        pairs += [("text", "accent-paper"), ("quiet", "accent-paper")]
        for text, paper in pairs:
            lighter, darker = sorted((luminance(theme[text]), luminance(theme[paper])), reverse=True)
            # WCAG 2.2, 1.4.3
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (text, paper, theme[text], theme[paper])


def test_the_leaderboard_shows_what_jobs_csv_says(whole, document):
    jobs = pd.read_csv(whole / "report" / "jobs.csv")
    rows = [text for attributes, text in document.all("tr") if "data-status" in attributes]
    assert len(rows) == len(jobs)
    for text, job in zip(rows, jobs.to_dict("records"), strict=True):
        assert job["label"] in text
        for shown in (f"{job['val_log_loss']:.4f}", f"{job['val_log_loss_low']:.4f} to {job['val_log_loss_high']:.4f}"):
            assert shown in text
        assert f"{100 * job['val_accuracy']:.2f} %" in text
        assert f"dropout {job['dropout']:g}" in text
        assert "2 of 2" in text
    assert "best" in rows[0]
    assert not any("best" in text.split() for text in rows[1:])
    assert "All jobs share backbone mobilenet_v2, schedule cosine." in document.body
    assert re.search(r"Augmentation: light instead of none lowers the log loss by 0\.\d{4} \(95 % inter", document.body)
    assert re.search(r"augmentation light none −0\.\d{4} −0\.\d{4} to −0\.\d{4} more than noise 2 200", document.body)


@pytest.mark.parametrize(
    ("jobs", "sentences"),
    [
        (
            [{"trials": 0, "status": "running"}],
            [
                "No trial has completed yet, so there is nothing to show.",
                "No epoch has been written down yet.",
                "there is no completed trial that it could train again",
                "No job has predicted the validation images yet.",
                "of which there are none.",
            ],
        ),
        ([{"trials": 1}], ["is the only job with a result", "1 trial completed", "images, of which there is one."]),
        (
            [{}, {"choices": {"schedule": "constant", "augmentation": "none"}}],
            ["No two of these jobs differ in one choice only"],
        ),
        ([{}, {"choices": {"schedule": "constant"}}], ["No choice makes a difference that is larger than the noise"]),
        ([{}, {"digest": "e" * 64}], ["Not all jobs were validated on the same images"]),
    ],
)
def test_what_cannot_be_shown_is_told(tmp_path, jobs, sentences):
    for name, job in zip("ab", jobs, strict=False):
        write_job(tmp_path / "night", name=name, **{**job, "choices": {**CHOICES, **job.get("choices", {})}})
    body = page_of(tmp_path / "night").body
    assert [sentence for sentence in sentences if sentence not in body] == []


def test_jobs_that_failed_run_or_wait_and_damage_are_told(tmp_path):
    study = tmp_path / "mixed"
    write_job(study, CHOICES, name="good", planned=8, failed_trials=1)
    write_job(study, CHOICES, name="broken", trials=0, status="failed", error="MemoryError: too much\nin detail: <b>")
    write_job(study, CHOICES, name="busy", trials=2, status="running", planned=8)
    write_job(study, CHOICES, name="killed", trials=0, status="killed")
    (study / "good" / "history.csv").write_text("nonsense")
    write_plan(study, ["good", "broken", "busy", "killed", "later"], ["-m", "seed=1,2"])
    document = page_of(study)
    assert "3 of 8 1 failed" in row_of(document, "good")
    assert "MemoryError: too much" in row_of(document, "broken")
    assert document.text("summary")[0] == "MemoryError: too much"
    assert document.text("pre") == ["MemoryError: too much in detail: <b>"]
    assert "busy best running" in row_of(document, "busy")
    assert "no process" not in row_of(document, "busy")
    assert "2 of 8" in row_of(document, "busy")
    assert "running killed: no process works on it" in row_of(document, "killed")
    assert "waiting" in row_of(document, "later")
    assert document.text("option") == ["all", "ok", "running", "waiting", "failed"]
    assert "python -m catsdogs.search -m seed=1,2" in document.text("code")
    assert "DivergedError: <b>the loss</b> is nan" in document.body
    assert "1 file is missing or damaged: see problems." in document.body
    assert "job good: its history.csv is damaged" in document.body


def test_failures_are_counted_and_many_kinds_are_cut(tmp_path):
    study = tmp_path / "night"
    write_job(study, CHOICES, name="a", trials=60, failed_trials=50)
    table = pd.read_csv(study / "a" / "trials.csv", dtype={"trial": str})
    table.loc[10:34, "error"] = "one and the same"
    table.loc[35:, "error"] = [f"another {number}" for number in range(25)]
    table.to_csv(study / "a" / "trials.csv", index=False)
    document = page_of(study)
    assert "a FAILED 25 one and the same" in document.body
    assert "10 trials completed, 50 did not" in document.body
    assert "another 18" in document.body
    assert "another 19" not in document.body
    assert "And 6 more, in trials.csv." in document.body


def test_the_answer_is_all_there_and_how_a_final_model_is_made(tmp_path):
    study = write_study(tmp_path / "night", trials=2)
    document, told = page_of(study), answer(read_evidence([study]))
    assert document.text("h1") == [told.headline]
    for sentence in [*told.sentences, *told.caveats, f"{told.log_loss.value:.4f}"]:
        assert sentence in document.body
    assert "retrain has not run on this study. It trains the best trial again" in document.body
    assert document.text("code").count(told.command) == 2


def test_the_final_model_is_shown_with_what_its_numbers_stand_on(whole, document):
    metrics = read_json(whole / "best" / "metrics.json")
    detail = metrics["details"]["log_loss_tta"]
    row = row_of(document, "lower is better")
    assert row.startswith(f"Log loss lower is better {metrics['log_loss']:.4f}")
    assert f"{detail['value']:.4f} {detail['low']:.4f} to {detail['high']:.4f}" in row
    assert f"On {IMAGES} validation images;" in document.body
    assert "Test-time augmentation lowers the log loss by" in document.body


def test_several_studies_are_told_apart(tmp_path):
    one, two = write_study(tmp_path / "first", trials=1), write_study(tmp_path / "second", trials=1)
    write_final(two)
    document = page_of(one, two)
    rows = [text for attributes, text in document.all("tr") if "data-status" in attributes]
    assert len(rows) == 8
    assert sum("first/" in row for row in rows) == sum("second/" in row for row in rows) == 4
    assert "Study first has no final model" in document.body
    assert [text for text in document.text("h3") if text.startswith("Study ")] == [
        "Study second",
        "Study first",
        "Study second",
    ]
    plots = [attributes["id"] for attributes, _ in document.all("div") if attributes.get("class") == "plot"]
    assert len(plots) == len(set(plots))


@pytest.mark.parametrize("watching", [True, False])
def test_a_watched_page_loads_itself_anew(whole, watching):
    document = page_of(whole, watching=watching)
    assert len(document.all("meta", **{"http-equiv": "refresh"}, content="10")) == watching
    assert ("loads itself anew every 10 seconds" in document.body) == watching


def test_folder_names_that_are_no_text_are_escaped(tmp_path):
    study = tmp_path / os.fsdecode(b"caf\xe9")
    write_job(study, CHOICES, name="job", seed=1)
    write_job(study, {**CHOICES, "schedule": os.fsdecode(b"\xf6")}, name="other", skill=1.2)
    for name in ("job", "other"):
        (study / name).rename(study / os.fsdecode(name.encode() + b"\xff"))
    write_final(study)
    output = tmp_path / os.fsdecode(b"page\xe9.html")
    write_report([study], output)
    write_leaderboard(study)
    document = Document(output.read_text(encoding="utf-8"))
    assert r"job\udcff is best" in document.text("h1")[0]
    assert document.text("b")[0] == r"caf\udce9"
    assert any(a.get("href") == "page%E9/jobs.csv" for a, _ in document.all("a"))
    jobs = pd.read_csv(output.with_suffix("") / "jobs.csv")
    assert list(jobs["job"]) == [r"job\udcff", r"other\udcff"] == list(pd.read_csv(study / "leaderboard.csv")["job"])


EVIL = '<script>window.hacked = 1</script><img src="x" onerror="window.hacked = 1">'


def test_hostile_names_are_only_text(tmp_path):
    study = tmp_path / "a '\"<b>&amp; ${x}"
    long = "x" * 300
    choices = {"backbone": EVIL, "augmentation": long, "schedule": "a\nb\u2028c", "label_smoothing": "{{ 7 * 7 }}"}
    write_job(study, choices, trials=12, failed_trials=1, name="<script>window.hacked=1<")
    write_job(
        study, {**choices, "augmentation": "%{x}"}, name="q'\"`\\", seed=3, status="failed", error=EVIL + "\n</pre>"
    )
    result = read_json(study / "q'\"`\\" / "result.json")
    write_json(study / "q'\"`\\" / "result.json", {**result, "config": {EVIL: EVIL + long, "seed": 1}})
    output = tmp_path / "pages <1>" / "report.html"
    write_report([study], output)
    document = Document(output.read_text(encoding="utf-8"))
    usual = page_of(write_study(tmp_path / "usual", trials=1))
    assert len(document.all("script", type="")) == 0
    plain = [attributes for attributes, _ in document.all("script") if "type" not in attributes]
    assert len(plain) == len([attributes for attributes, _ in usual.all("script") if "type" not in attributes])
    assert document.all("img") == []
    assert EVIL in document.body
    assert "{{ 7 * 7 }}" in document.body
    assert document.text("b")[0] == "a '\"<b>&amp; ${x}"
    assert max(len(text) for text in document.text("td") if text.startswith("xxx")) == 80
    settings = [text for attributes, text in document.all("td") if not attributes]
    assert max(len(text) for text in settings if text.startswith("<script")) == 200
    for address in (attributes["href"] for attributes, _ in document.all("a")):
        assert address.startswith(("#", "report/"))


def test_the_page_and_its_tables_are_written_beside_each_other(whole, tmp_path):
    # There are too few trials for importances.
    assert {file.stem for file in (whole / "report").iterdir()} >= set(TITLES) - {"importance"}
    write_report([whole], tmp_path / "some page.html")
    document = Document((tmp_path / "some page.html").read_text(encoding="utf-8"))
    assert "some%20page/jobs.csv" in [attributes["href"] for attributes, _ in document.all("a")]
    assert (tmp_path / "some page" / "jobs.csv").is_file()


def test_the_page_of_a_large_study_is_below_6_mb(tmp_path):
    study = write_study(tmp_path / "large", trials=50, images=2000, epochs=10)
    write_final(study, images=2000, test_images=500)
    # As large as thumbnails of photographs: noise that is blurred.
    small = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((300, 300), Image.Resampling.BILINEAR).save(file, "JPEG", quality=90)
    images = dict.fromkeys(ids(2000), file.getvalue())
    write_images(tmp_path / "photos", images)
    for folder in study.glob("mobilenet*"):
        write_split(folder, images)
    write_report([study], tmp_path / "report.html", images=tmp_path / "photos")
    document = Document((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(document.all("img")) == 36
    assert (tmp_path / "report.html").stat().st_size < 6_000_000
