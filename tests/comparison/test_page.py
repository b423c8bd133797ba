"""The page as a document: complete, self-contained, right for every study. What it does is tested in test_browser."""

from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest
from documents import EVIL, Document, assert_fetches_nothing, write_hostile
from drawn import encoded
from PIL import Image
from studies import CHOICES, IMAGES, ids, write_final, write_images, write_job, write_split, write_study

import catsdogs.comparison.page.writing as page_module
from catsdogs.base.files import read_json
from catsdogs.comparison.figures import theme
from catsdogs.comparison.page.writing import write_report
from catsdogs.comparison.study_data import read_study_data
from catsdogs.comparison.summary import summarize
from catsdogs.comparison.tables import TITLES
from catsdogs.study.jobs import write_leaderboard, write_plan

TEMPLATE = Path(page_module.__file__).parents[2] / "pages" / "template"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished study with a final model, its page and the folder of both."""
    study = write_study(tmp_path_factory.mktemp("studies") / "night", trials=2)
    write_final(study)
    write_report([study], study / "report.html")
    return study


@pytest.fixture(scope="module")
def document(whole):
    return Document(whole / "report.html")


def page_of(*studies, **more) -> Document:
    output = studies[0].with_name("some page.html")
    write_report(list(studies), output, **more)
    return Document(output)


def row_of(document, name: str) -> str:
    return next(text for text in document.text("tr") if name in text)


def test_nothing_is_fetched(whole, document):
    assert_fetches_nothing(document, whole)
    # Nor does what is ours; Plotly's own code names addresses that only maps would use.
    for file in TEMPLATE.iterdir():
        assert not re.search(r"https?:|url\(|@import", file.read_text()), file


def test_figures_are_json_that_no_parser_ends_early(document):
    figures = {attributes["id"]: text for attributes, text in document.all("script", type="application/json")}
    assert len(figures) > 12
    for text in figures.values():
        assert not set("<>&\u2028\u2029") & set(text)
        assert json.loads(text)
    assert {"themes", *(a["data-figure"] for a, _ in document.all("div", **{"class": "plot"}))} == set(figures)


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
    assert document.text("th", **{"aria-sort": "ascending"}) == ["Log loss"]


def contrast(one, other):
    """WCAG 2.2: relative luminance of the lighter over that of the darker, both raised by 0.05."""
    low, high = sorted(luminance(color) + 0.05 for color in (one, other))
    return high / low


def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_and_figures_have_contrast_in_both_themes():
    css = (TEMPLATE / "report.css").read_text()
    names, *themes = zip(*re.findall(r"--([a-z-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", css), strict=True)
    assert len(names) == len(re.findall(r"^  --[a-z-]+: .*#", css, re.MULTILINE)) > 10
    pairs = [(text, paper) for text in ("text", "quiet", "accent", "bad") for paper in ("paper", "raised")]
    pairs += [(name, f"{name}-paper") for name in ("accent", "good", "bad", "wait")]
    pairs += [("text", "accent-paper"), ("quiet", "accent-paper")]
    for colors, template in zip(themes, (theme.LIGHT, theme.DARK), strict=True):
        color = dict(zip(names, colors, strict=True))
        for text, paper in pairs:
            assert contrast(color[text], color[paper]) >= 4.5, (text, paper)
        layout = go.layout.Template(template).layout
        for text in (layout.font.color, layout.xaxis.tickfont.color):
            assert contrast(text, color["paper"]) >= 4.5
        for shape in (*theme.PALETTE, *theme.SCALE, theme.NEUTRAL, theme.ALARM):
            assert contrast(shape, color["paper"]) >= 3, shape


def test_the_leaderboard_shows_what_jobs_csv_says(whole, document):
    jobs = pd.read_csv(whole / "report" / "jobs.csv")
    # There are too few trials for importances.
    assert {file.stem for file in (whole / "report").iterdir()} >= set(TITLES) - {"importance"}
    for text, job in zip(document.rows, jobs.to_dict("records"), strict=True):
        for shown in (
            job["label"],
            f"{job['val_log_loss']:.4f}",
            f"{job['val_log_loss_low']:.4f} to {job['val_log_loss_high']:.4f}",
            f"{100 * job['val_accuracy']:.2f} %",
            f"dropout {job['dropout']:g}",
            "2 of 2",
        ):
            assert shown in text
    assert ["best" in text.split() for text in document.rows] == [True, False, False, False]
    assert "All jobs share backbone mobilenet_v2, schedule cosine." in document.body
    assert re.search(r"Augmentation: light instead of none lowers the log loss by 0\.\d{4} \(95 % inter", document.body)
    assert re.search(r"augmentation light none −0\.\d{4} −0\.\d{4} to −0\.\d{4} more than noise 2 200", document.body)


@pytest.mark.parametrize(
    ("jobs", "sentences"),
    [
        (
            [{"trials": 0, "status": "running"}],
            [
                "No trial has completed yet",
                "No epoch has been written",
                "there is no completed trial",
                "No job has predicted",
                "of which there are none.",
            ],
        ),
        ([{"trials": 1}], ["is the only job with a result", "1 trial completed", "images, of which there is one."]),
        ([{}, {"choices": {"schedule": "x", "augmentation": "none"}}], ["No two of these jobs differ in one choice"]),
        ([{}, {"choices": {"schedule": "x"}}], ["No choice makes a difference that is larger"]),
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
    for name, told in (
        ("good", "3 of 8 1 failed"),
        ("broken", "MemoryError: too much"),
        ("busy", "busy best running"),
        ("busy", "2 of 8"),
        ("killed", "running killed: no process works on it"),
        ("later", "waiting"),
    ):
        assert told in row_of(document, name)
    assert "no process" not in row_of(document, "busy")
    assert document.text("summary")[0] == "MemoryError: too much"
    assert document.text("pre") == ["MemoryError: too much in detail: <b>"]
    assert document.text("option") == ["all", "ok", "running", "waiting", "failed"]
    assert "python -m catsdogs.search -m seed=1,2" in document.text("code")
    for told in ("DivergedError: <b>the loss</b> is nan", "1 file is missing or damaged", "history.csv is corrupted"):
        assert told in document.body


def test_failures_are_counted_and_many_kinds_are_cut(tmp_path):
    write_job(tmp_path / "night", CHOICES, name="a", trials=60, failed_trials=50)
    file = tmp_path / "night" / "a" / "trials.csv"
    errors = [""] * 10 + ["one and the same"] * 25 + [f"another {number}" for number in range(25)]
    pd.read_csv(file, dtype={"trial": str}).assign(error=errors).to_csv(file, index=False)
    document = page_of(tmp_path / "night")
    for told in ("a FAILED 25 one and the same", "10 trials completed, 50 did not", "another 18", "And 6 more, in"):
        assert told in document.body
    assert "another 19" not in document.body


def test_the_answer_is_all_there_and_how_a_final_model_is_made(tmp_path):
    study = write_study(tmp_path / "night", trials=2)
    document, told = page_of(study), summarize(read_study_data([study]))
    assert document.text("h1") == [told.headline]
    for sentence in [*told.sentences, *told.caveats, f"{told.log_loss.value:.4f}"]:
        assert sentence in document.body
    assert "retrain has not run on this study." in document.body
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
    assert [sum(f"{name}/" in row for row in document.rows) for name in ("first", "second")] == [4, 4]
    assert "Study first has no final model" in document.body
    heads = [text.removeprefix("Study ") for text in document.text("h3") if text.startswith("Study ")]
    assert heads == ["second", "first", "second"]
    assert_fetches_nothing(document, tmp_path)


def test_a_watched_page_loads_itself_anew(whole, document):
    for page, watching in ((document, False), (page_of(whole, watching=True), True)):
        assert len(page.all("meta", **{"http-equiv": "refresh"}, content="10")) == watching
        assert ("loads itself anew every 10 seconds" in page.body) == watching


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
    document = Document(output)
    assert r"job\udcff is the best job" in document.text("h1")[0]
    assert document.text("b")[0] == r"caf\udce9"
    assert document.all("a", href="page%E9/jobs.csv")
    jobs = pd.read_csv(output.with_suffix("") / "jobs.csv")
    assert list(jobs["job"]) == [r"job\udcff", r"other\udcff"] == list(pd.read_csv(study / "leaderboard.csv")["job"])


def test_hostile_names_are_only_text(tmp_path):
    output = tmp_path / "pages <1>" / "report.html"
    write_report([write_hostile(tmp_path / "a '\"<b>&amp; ${x}")], output)
    document, usual = Document(output), page_of(write_study(tmp_path / "usual", trials=1))
    ours, theirs = ([a.get("type") for a, _ in page.all("script")] for page in (usual, document))
    assert theirs.count(None) == ours.count(None)
    assert set(theirs) == set(ours)
    assert document.all("img") == []
    assert EVIL in document.body
    assert "{{ 7 * 7 }}" in document.body
    assert document.text("b")[0] == "a '\"<b>&amp; ${x}"
    cells = [(bool(attributes), text) for attributes, text in document.all("td")]
    assert max(len(text) for _, text in cells if text.startswith("xxx")) == 80
    assert max(len(text) for dressed, text in cells if not dressed and text.startswith("<script")) == 200
    assert all(attributes["href"].startswith(("#", "report/")) for attributes, _ in document.all("a"))


def test_the_page_of_a_large_study_is_below_6_mb(tmp_path):
    study = write_study(tmp_path / "large", trials=50, images=2000, epochs=10)
    write_final(study, images=2000, test_images=500)
    # As large as thumbnails of photographs: noise that is blurred.
    noise = Image.effect_noise((48, 48), 100).resize((300, 300), Image.Resampling.BILINEAR)
    images = dict.fromkeys(ids(2000), encoded(noise, quality=90))
    write_images(tmp_path / "photos", images)
    for folder in study.glob("mobilenet*"):
        write_split(folder, images)
    write_report([study], tmp_path / "report.html", images=tmp_path / "photos")
    assert len(Document(tmp_path / "report.html").all("img")) == 36
    assert (tmp_path / "report.html").stat().st_size < 6_000_000
