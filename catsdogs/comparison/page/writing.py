"""Writing of the report page and its tables.

The page loads nothing: it contains plotly.js (its bundle `basic`, for lines, points and bars), figures and thumbnails,
and a Content-Security-Policy blocks all requests.
"""

import datetime
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd
from markupsafe import Markup

from catsdogs.base.files import check_tables_folder, write_text
from catsdogs.base.text import quoted
from catsdogs.comparison.figures.curves import learning_curves
from catsdogs.comparison.figures.search import job_intervals
from catsdogs.comparison.gallery import ImageFolder
from catsdogs.comparison.page import sections
from catsdogs.comparison.study_data import StudyData, read_study_data
from catsdogs.comparison.tables import TITLES, Findings, findings, tables, write_tables
from catsdogs.pages import formats

_TEMPLATE = Path(__file__).parents[2] / "pages" / "template"

_LONGEST_VALUE = 200  # characters of a configuration value
_LONGEST_NAME = 80  # characters of a name in a table
RELOAD_SECONDS = 10  # while a study is watched


def write_report(folders: list[Path], output: Path, watching: bool = False, images: ImageFolder = None) -> StudyData:
    """Read studies, and write the report page and a folder of tables named like the page without its suffix.

    With `watching`, the page reloads every `RELOAD_SECONDS`.
    Raise a `UserError` if a study cannot be read or the folder for the tables contains other files.
    """
    # The folder of a page without a suffix needs another name.
    folder = output.with_suffix("") if output.suffix else output.with_name(f"{output.name}-tables")
    study_data = read_study_data(folders)
    check_tables_folder(output, folder, lambda files: "jobs.csv" in files)
    results = findings(study_data, images)
    csv_tables = write_tables(folder, tables(results))
    write_text(output, _report(results, csv_tables, watching, folder))
    return study_data


def _report(results: Findings, csv_tables: Mapping[str, pd.DataFrame], watching: bool, folder: Path) -> str:
    study_data = results.study_data
    studies = [sections.study(study_data, path) for path in study_data.studies]
    return render(
        "report",
        folder,
        {name: TITLES[name] for name in csv_tables},
        title=" and ".join(str(study["name"]) for study in studies),
        studies=studies,
        several=len(studies) > 1,
        reload_seconds=RELOAD_SECONDS if watching else None,
        summary=results.summary,
        tiles=sections.tiles(results),
        intervals=job_intervals(study_data, results.summary.intervals),
        leaderboard=sections.leaderboard(results, csv_tables["jobs"]),
        effects=sections.effects(results),
        search=sections.search(results),
        curves=learning_curves(study_data),
        finals=[sections.final_model(results, final) for final in study_data.final_models.values()],
        without_final=[study for study in studies if study["name"] not in study_data.final_models],
        classes=sections.classes(results),
        gallery=results.gallery,
        settings=sections.settings(results, csv_tables),
        problems=study_data.problems,
        script=_markup("report.js"),
        plotly=_markup("../plotly/plotly-basic.min.js"),
    )


def render(kind: str, folder: Path, titles: Mapping[str, str], **values: Any) -> str:
    """Return the HTML of a page: "report" or "audit", with links to tables with these `titles` by name, in `folder`."""
    addresses = {name: f"{quote(os.fsencode(folder.name))}/{name}.csv" for name in titles}
    files = [(address, f"{name}.csv", titles[name]) for name, address in addresses.items()]
    values |= {"kind": kind, "written": datetime.datetime.now(datetime.UTC), "files": files, "link": addresses.get}
    values |= {"css": _markup("report.css"), "page_script": _markup("page.js")}
    return _environment().get_template(f"{kind}.html.j2").render(values)


def _markup(name: str) -> Markup:
    """Return the text of a file, by its path from the templates, to be inserted without escaping."""
    return Markup((_TEMPLATE / name).read_text(encoding="utf-8"))


def _environment() -> jinja2.Environment:
    """Return the Jinja environment of the pages, with their filters; it escapes all text."""
    layout: dict[str, Any] = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    jinja = jinja2.Environment(loader=jinja2.FileSystemLoader(_TEMPLATE), autoescape=True, **layout)
    names = ("loss", "minus", "percent", "probability", "count", "counted", "number", "value", "words", "breakable")
    jinja.filters |= {name: getattr(formats, name) for name in names}
    jinja.filters |= {
        "signed": lambda number: formats.minus(formats.signed(number)),
        "duration": formats.time_spent,
        "time": formats.day_and_time,
        "quoted": quoted,
        "first_line": lambda text: next(iter(str(text).strip().splitlines()), ""),
        "cut": lambda text: formats.cut_in_the_middle(str(text), _LONGEST_VALUE),
        "middle": lambda text: formats.cut_in_the_middle(str(text), _LONGEST_NAME),
    }
    return jinja
