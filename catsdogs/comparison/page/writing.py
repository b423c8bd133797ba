"""Evidence -> one self-contained HTML page, and the tables beside it.

The page fetches nothing: Plotly, figures and pictures are inside, and a Content-Security-Policy forbids the rest.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import jinja2
import pandas as pd
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from catsdogs.base.files import check_tables_folder, write_text
from catsdogs.base.text import quoted
from catsdogs.comparison.figures import theme
from catsdogs.comparison.figures.curves import learning_curves
from catsdogs.comparison.figures.search import job_intervals
from catsdogs.comparison.page import sections
from catsdogs.comparison.study_data import StudyData, read_study_data
from catsdogs.comparison.tables import TITLES, Findings, findings, tables, write_tables
from catsdogs.pages import formats

_TEMPLATE = Path(__file__).parents[2] / "pages" / "template"

_LONGEST_VALUE = 200  # characters of a configuration value
_LONGEST_NAME = 80  # characters of a name in a table
_RELOAD_SECONDS = 10  # while a study is watched


def write_report(folders: list[Path], output: Path, watching: bool = False, images: Path | None = None) -> StudyData:
    """Read studies, and write the page and its tables.

    Args:
        images: folder of the images, as the user gave it.
        output: the page; the tables go into the folder beside it that is named as the page without its suffix.
        watching: the page loads itself anew every ten seconds.

    Raises:
        UserError: a study cannot be read at all, or the folder for the tables holds other files.
        OSError: the page cannot be written.
    """
    # A page without a suffix has the name that its folder would have.
    beside = output.with_suffix("") if output.suffix else output.with_name(f"{output.name}-tables")
    check_tables_folder(output, beside, lambda there: "jobs.csv" in there)
    study_data = read_study_data(folders)
    found = findings(study_data, images)
    made = tables(found)
    write_tables(beside, made)
    write_text(output, _rendered(found, made, watching, beside.name))
    return study_data


def _rendered(found: Findings, made: Mapping[str, pd.DataFrame], watching: bool, beside: str) -> str:
    """The page, with links into the folder `beside` it that the tables lie in."""
    study_data = found.study_data
    addresses = {name: f"{quote(os.fsencode(beside))}/{name}.csv" for name in made}
    studies = [sections.study(study_data, folder) for folder in study_data.studies]
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            kind="report",
            title=" and ".join(str(study["name"]) for study in studies),
            studies=studies,
            several=len(studies) > 1,
            written=datetime.datetime.now(datetime.UTC),
            reload_seconds=_RELOAD_SECONDS if watching else None,
            answer=found.summary,
            tiles=sections.tiles(found),
            intervals=job_intervals(study_data, found.intervals),
            leaderboard=sections.leaderboard(found, made["jobs"]),
            effects=sections.effects(found),
            search=sections.search(found),
            curves=learning_curves(study_data),
            finals=[sections.final_model(found, final) for final in study_data.final_models.values()],
            without_final=[study for study in studies if study["name"] not in study_data.final_models],
            gallery=found.gallery,
            ran=sections.ran(found, made),
            problems=study_data.problems,
            files=[(address, f"{name}.csv", TITLES[name]) for name, address in addresses.items()],
            link=addresses.get,
            themes={"light": theme.LIGHT, "dark": theme.DARK},
            css=markup("report.css"),
            page_script=markup("page.js"),
            script=markup("report.js"),
            plotly=Markup(get_plotlyjs()),
        )
    )


def markup(name: str) -> Markup:
    """A file of the template folder that goes into a page as it is."""
    return Markup((_TEMPLATE / name).read_text(encoding="utf-8"))


def environment() -> jinja2.Environment:
    """What turns templates into pages."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("loss", "signed", "percent", "probability", "count", "counted", "number", "value", "words", "breakable")
    made.filters |= {name: getattr(formats, name) for name in names}
    made.filters |= {
        "duration": formats.time_spent,
        "time": formats.day_and_time,
        "quoted": quoted,
        "first_line": lambda text: next(iter(str(text).strip().splitlines()), ""),
        "cut": lambda text: formats.cut(str(text), _LONGEST_VALUE),
        "middle": lambda text: formats.cut_in_the_middle(str(text), _LONGEST_NAME),
    }
    return made
