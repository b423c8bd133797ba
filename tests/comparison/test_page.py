"""The report page as a document. Its behavior in a browser is tested in `tests/whole/test_browser.py`."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from documents import EVIL, Document, assert_fetches_nothing, write_hostile
from plotly.offline import get_plotlyjs_version
from studies import CHOICES, IMAGES, labels, probabilities, write_final, write_job, write_study

import catsdogs.comparison.page.writing as page_module
from catsdogs.base.files import read_json, write_csv
from catsdogs.comparison.figures import theme
from catsdogs.comparison.page.writing import write_report
from catsdogs.comparison.study_data import read_study_data
from catsdogs.comparison.summary import summarize
from catsdogs.comparison.tables import TITLES
from catsdogs.comparison.terminal import print_summary
from catsdogs.pages.formats import between, minus
from catsdogs.scoring.classes import Classes
from catsdogs.scoring.intervals import wilson_interval
from catsdogs.scoring.scores import confusion
from catsdogs.study.plan import record_ended, write_plan

pytestmark = pytest.mark.lowest

TEMPLATE = Path(page_module.__file__).parents[2] / "pages" / "template"
NO_TRIAL = {"trials": 0, "status": "running"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of a finished study with a final model and its page."""
    study = write_study(tmp_path_factory.mktemp("studies") / "night", trials=2)
    write_final(study)
    write_report([study], study / "report.html")
    return study


@pytest.fixture(scope="module")
def document(finished):
    return Document(finished / "report.html")


def page_of(*studies, **options) -> Document:
    output = studies[0].with_name("some page.html")
    write_report(list(studies), output, **options)
    return Document(output)


def row_of(document, name: str) -> str:
    return next(text for text in document.text("tr") if name in text)


def test_page_loads_nothing(finished, document):
    assert_fetches_nothing(document, finished)
    # Plotly contains addresses, which only maps use; the templates contain none.
    for file in TEMPLATE.iterdir():
        assert not re.search(r"https?:|url\(|@import", file.read_text()), file


def test_the_page_has_the_plotly_js_of_the_python_package(finished):
    page = (finished / "report.html").read_bytes()
    assert b"plotly.js (basic - minified) v%s\n" % get_plotlyjs_version().encode() in page
    assert len(page) < 1_400_000


def test_figures_are_json_without_html_characters(document):
    figures = {attributes["id"]: text for attributes, text in document.all("script", type="application/json")}
    assert len(figures) == 13
    for text in figures.values():
        assert not set("<>&\u2028\u2029") & set(text)
        # The other type of trace in this bundle is a pie.
        assert {trace["type"] for trace in json.loads(text)["data"]} <= {"scatter", "bar"}
    assert {a["data-figure"] for a, _ in document.all("div", **{"class": "plot"})} == set(figures)


def test_page_is_accessible(document):
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
            assert (attributes["role"], attributes["tabindex"]) == ("region", "0")
            assert "aria-label" in attributes or "aria-labelledby" in attributes
        if attributes.get("class") == "plot":
            assert attributes["role"] == "img"
            assert len(attributes["aria-label"]) > 30
    for attributes, text in document.all("button"):
        assert text or attributes.get("aria-label") or attributes["id"] == "theme"
    assert all(attributes.get("alt") for attributes, _ in document.all("img"))
    assert document.text("th", **{"aria-sort": "ascending"}) == ["Log loss"] * 2


def contrast(*colors):
    """Return the contrast ratio of WCAG 2.2."""
    rgb = np.array([list(bytes.fromhex(color[1:])) for color in colors]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    low, high = sorted(linear @ [0.2126, 0.7152, 0.0722] + 0.05)
    return high / low


def test_text_and_figures_have_contrast_in_both_themes():
    css = (TEMPLATE / "report.css").read_text()
    names, *themes = zip(*re.findall(r"--([a-z-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", css), strict=True)
    assert len(names) == len(re.findall(r"^  --[a-z-]+: .*#", css, re.MULTILINE)) > 10
    pairs = [(text, paper) for text in ("text", "quiet", "accent", "bad") for paper in ("paper", "raised")]
    pairs += [(name, f"{name}-paper") for name in ("accent", "good", "bad", "wait")]
    pairs += [("text", "accent-paper"), ("quiet", "accent-paper")]
    pairs += [("text", "cell-low"), ("text", "cell-high")]
    for colors in themes:
        color = dict(zip(names, colors, strict=True))
        for text, paper in pairs:
            assert contrast(color[text], color[paper]) >= 4.5, (text, paper)
        for shape in (*theme.PALETTE, *theme.SCALE, theme.NEUTRAL, theme.ALARM):
            assert contrast(shape, color["paper"]) >= 3, shape


def test_leaderboard_matches_jobs_csv(finished, document):
    jobs = pd.read_csv(finished / "report" / "jobs.csv")
    # Importance needs more trials.
    assert {file.stem for file in (finished / "report").iterdir()} >= set(TITLES) - {"importance"}
    for text, job in zip(document.rows, jobs.to_dict("records"), strict=True):
        scores = (f"{job['val_log_loss']:.4f}", f"{100 * job['val_accuracy']:.2f}%")
        interval = f"{job['val_log_loss_low']:.4f} to {job['val_log_loss_high']:.4f}"
        for expected in (job["label"], *scores, interval, f"dropout {job['dropout']:g}", "2/2"):
            assert expected in text
    assert ["best" in text.split() for text in document.rows] == [True, False, False, False]
    assert "Choices that all jobs share: backbone mobilenet_v2, schedule cosine." in document.body
    assert re.search(r"Augmentation: light instead of none lowers the log loss by 0\.\d{4} \(95% CI 0\.", document.body)
    assert re.search(r"augmentation light none −0\.\d{4} −0\.\d{4} to −0\.\d{4} significant 2 200", document.body)


@pytest.mark.parametrize(
    ("jobs", "sentences"),
    [
        (
            [NO_TRIAL],
            ["No epochs recorded yet", "the same images (0 so far)", "No predictions for the validation images"],
        ),
        ([{"trials": 1}], ["is the only job with a result", "1 trial completed", "the same images (1 so far)"]),
        ([{}, {"choices": {"schedule": "x", "augmentation": "none"}}], ["No two jobs differ in exactly one setting"]),
        ([{}, {"choices": {"schedule": "x"}}], ["No choice has a significant effect"]),
        ([{}, {"digest": "e" * 64}], ["Not all jobs were validated on the same images"]),
    ],
)
def test_page_explains_missing_results(tmp_path, jobs, sentences):
    for name, job in zip("ab", jobs, strict=False):
        write_job(tmp_path / "night", name=name, **{**job, "choices": {**CHOICES, **job.get("choices", {})}})
    body = page_of(tmp_path / "night").body
    assert [sentence for sentence in sentences if sentence not in body] == []


def test_unfinished_jobs_and_corrupted_files_are_reported(tmp_path):
    study = tmp_path / "mixed"
    write_job(study, CHOICES, name="good", planned=8, failed_trials=1)
    write_job(study, CHOICES, name="broken", trials=0, status="failed", error="MemoryError: too much\nin detail: <b>")
    write_job(study, CHOICES, name="busy", trials=2, status="running", planned=8)
    write_job(study, CHOICES, name="killed", trials=0, status="killed")
    (study / "good" / "history.csv").write_text("nonsense")
    write_plan(study, ["good", "broken", "busy", "killed", "later", "gone"], ["-m", "seed=1,2"])
    record_ended(study, ["good", "gone"])
    document = page_of(study)
    expected = {
        "good": "3/8 1 failed",
        "broken": "MemoryError: too much",
        "busy": "busy best running",
        "later": "waiting",
    }
    expected |= {"killed": "running killed: no process holds its lock", "gone": "deleted"}
    assert [text for name, text in expected.items() if text not in row_of(document, name)] == []
    assert "2/8" in row_of(document, "busy")
    assert "no process" not in row_of(document, "busy")
    assert document.text("summary")[0] == "MemoryError: too much"
    assert document.text("pre") == ["MemoryError: too much in detail: <b>"]
    assert document.text("option") == ["all", "ok", "running", "waiting", "failed", "deleted"]
    assert "python -m catsdogs.search -m seed=1,2" in document.text("code")
    for text in ("DivergedError: <b>the loss</b> is nan", "1 file is missing or corrupted", "history.csv is corrupted"):
        assert text in document.body


def test_summary_is_complete_and_shows_the_retrain_command(tmp_path):
    study = write_study(tmp_path / "night", trials=2)
    document, summary = page_of(study), summarize(read_study_data([study]))
    assert document.text("h1") == [minus(summary.headline)]
    for sentence in [*summary.sentences, *summary.caveats, f"{summary.log_loss.value:.4f}"]:
        assert minus(sentence) in document.body
    assert "No final model yet: run retrain to train it" in document.body
    assert document.text("code").count(summary.command) == 2


@pytest.mark.parametrize("errors", [19, 20])
def test_all_outputs_show_the_same_interval_and_warn_below_20_errors(tmp_path, errors, capsys):
    study = tmp_path / "night"
    for name, certainty in (("a", 0.95), ("b", 0.9)):
        folder = study / write_job(study, CHOICES, name=name)
        table = pd.read_csv(folder / "validation.csv", dtype={"id": str})
        p_dog = np.where(table["label"] == 1, certainty, 1 - certainty)
        p_dog[:errors] = 1 - p_dog[:errors]
        # The order of the images differs between jobs.
        write_csv(folder / "validation.csv", table.assign(p_dog=p_dog).iloc[:: 1 if name == "a" else -1])
    document, study_data = page_of(study), read_study_data([study])
    print_summary(study_data)
    printed = " ".join(capsys.readouterr().out.split())
    low, high = wilson_interval(IMAGES - errors, IMAGES)
    for label, score in summarize(study_data).intervals.items():
        row = next(text for text in document.text("tr") if text.startswith(f"{label} "))
        assert all(between(score) in text for text in (printed, row))
        assert f"{low:.2%} to {high:.2%}" in row
        assert (f"only {errors} errors" in row) == (errors < 20)
    assert f"95% CI {low:.2%} to {high:.2%}, on {IMAGES} validation images" in document.body
    for text in (printed, document.body):
        assert f"(95% CI {low:.2%} to {high:.2%})" in text
        for images in (f"Misclassified: {errors}", f"Misclassified by either job: {errors}", f"b ({errors} of"):
            assert (images in text) == (errors < 20)


def test_final_model_shows_scores_and_images(finished, document):
    plain, tta = map(read_json(finished / "best" / "metrics.json")["details"].get, ("log_loss", "log_loss_tta"))
    row = row_of(document, "lower is better")
    assert row.startswith(f"Log loss lower is better {plain['value']:.4f}")
    assert f"{tta['value']:.4f} {tta['low']:.4f} to {tta['high']:.4f}" in row
    assert f"{IMAGES} validation images; CIs: 95% over images;" in document.body
    assert "Test-time augmentation lowers the log loss by" in document.body


@pytest.mark.parametrize("count", [2, 20, 21])
def test_confusions_are_a_matrix_or_of_many_classes_a_list(tmp_path, count):
    classes = Classes(tuple(f"<b>{number}</b>" for number in range(count)))
    study = write_study(tmp_path / "night", trials=1, classes=classes)
    write_final(study, classes=classes, skill=0.5)
    document = page_of(study)
    counts = confusion(labels(classes=classes), probabilities(0.6, classes=classes))
    assert f"{IMAGES} validation images of {count} classes (<b>0</b>, " in document.body
    assert ("Fewer than 20 validation images: " in document.body) == (count > 2)
    cells = [int(text.split()[0]) for attributes, text in document.all("td") if "style" in attributes]
    if count <= 20:
        assert cells == list(counts[counts > 0])
    else:
        np.fill_diagonal(counts, 0)
        label, predicted = np.unravel_index(counts.argmax(), counts.shape)
        row = f"<b>{label}</b> <b>{predicted}</b> {counts.max()} "
        rows = document.text("tr")
        assert row_of(document, "Predicted as") in rows
        assert rows[rows.index(row_of(document, "Predicted as")) + 1].startswith(row)
        assert f"20 of {(counts > 0).sum()} pairs of classes" in document.body
        assert cells == []


def test_page_of_several_studies(tmp_path):
    studies = [write_study(tmp_path / name, trials=1) for name in ("first", "second")]
    write_final(studies[1])
    document = page_of(*studies)
    assert [sum(f"{name}/" in row for row in document.rows) for name in ("first", "second")] == [4, 4]
    assert "Study first has no final model" in document.body
    heads = [text.removeprefix("Study ") for text in document.text("h3") if text.startswith("Study ")]
    assert heads == ["second", "first", "second"]
    assert_fetches_nothing(document, tmp_path)


def test_live_page_reloads(finished, document):
    for page, watching in ((document, False), (page_of(finished, watching=True), True)):
        assert len(page.all("meta", **{"http-equiv": "refresh"}, content="10")) == watching
        assert ("refreshes every 10 seconds" in page.body) == watching


def test_hostile_names_are_escaped(tmp_path):
    output = tmp_path / "pages <1>" / "report.html"
    write_report([write_hostile(tmp_path / "a '\"<b>&amp; ${x}")], output)
    document, usual = Document(output), page_of(write_study(tmp_path / "usual", trials=1))
    expected, types = ([a.get("type") for a, _ in page.all("script")] for page in (usual, document))
    assert types.count(None) == expected.count(None)
    assert set(types) == set(expected)
    assert document.all("img") == []
    assert EVIL in document.body
    assert "{{ 7 * 7 }}" in document.body
    assert document.text("b")[0] == "a '\"<b>&amp; ${x}"
    cells = [(bool(attributes), text) for attributes, text in document.all("td")]
    assert max(len(text) for _, text in cells if text.startswith("xxx")) == 80
    assert max(len(text) for has_attributes, text in cells if not has_attributes and text.startswith("<script")) == 200
    assert all(attributes["href"].startswith(("#", "report/")) for attributes, _ in document.all("a"))
