"""Reference of files: Markdown from their declarations in the code, and the meanings in `reference/columns.yaml`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import pandas as pd
import yaml
from settings_page import flat, sentence, type_text

from catsdogs.base.files import read_json
from catsdogs.base.records import _RANGES, Record, Table
from catsdogs.comparison import final_models, study_data, tables
from catsdogs.config.compose import COMPOSED_GROUPS
from catsdogs.config.schema import SEARCHABLE
from catsdogs.data_audit import findings
from catsdogs.scoring.classes import Classes
from catsdogs.study import job_tables, jobs, plan, trials

_CLASSES = Classes(("other", "CLASS"))

DECLARED: dict[str, Table | type[Record]] = {
    "study.json": plan.Plan,
    "JOB/result.json": jobs._Result,
    "JOB/trials.csv": trials._TABLE,
    "JOB/history.csv": job_tables.HISTORY_TABLE,
    "JOB/validation.csv": job_tables.validation_table(_CLASSES),
    "JOB/split.csv": study_data._SPLIT,
    "best/metrics.json": final_models.Metrics,
    "best/predictions.csv": final_models.predictions_table(_CLASSES),
    "best/history.csv": final_models.HISTORY_TABLE,
    "best/recipe.json": final_models.Recipe,
    "best/class_activation.json": final_models.ClassActivation,
}
TITLES = {f"report/{name}.csv": text for name, text in tables.TITLES.items()}
TITLES |= {f"audit/{name}.csv": text for name, text in findings.TITLES.items()}


def _read() -> dict[str, Any]:
    return dict(yaml.safe_load((Path(__file__).parent / "reference" / "columns.yaml").read_text(encoding="utf-8")))


def meanings() -> dict[str, dict[str, str]]:
    """Return the meaning of every column or key, by file."""
    read = _read()
    shared = read.pop("shared")
    return {
        file: {name: text or shared[name.rpartition(".")[2]] for name, text in part["names"].items()}
        for file, part in read.items()
    }


def types(file: str) -> dict[str, str]:
    """Return type and range of every declared column or key of a file, in Markdown."""
    declared = DECLARED.get(file)
    if declared is None:
        return {}
    if isinstance(declared, Table):
        return {name: _column_type(declared, name) for name in declared.columns}
    return {key: type_text(node) for key, node in flat(declared.model_json_schema())}


def _column_type(table: Table, name: str) -> str:
    kind: Any = table.columns[name]
    empty = ", or empty" if isinstance(kind, UnionType) else ""
    plain = get_args(kind)[0] if empty else kind
    low, high = table.ranges.get(name, (0, 1) if name.startswith("p_") else _RANGES.get(name, (-math.inf, math.inf)))
    ends = f", {low:g} to {high:g}" if high < 1e6 else f", at least {low:g}" if low > -math.inf else ""
    return {int: "integer", float: "number", str: "text"}[plain] + ends + empty


def files(folder: str) -> str:
    """Return a section of Markdown for each file of a folder: "" for the study, JOB, best, report or audit."""
    lines, read = [], _read()
    for file, names in meanings().items():
        if file.rpartition("/")[0] == folder:
            kinds = types(file)
            about = sentence(TITLES[file]) if file in TITLES else read[file]["about"]
            columns = ["column" if file.endswith(".csv") else "key", *(["type"] if kinds else []), "meaning"]
            lines += [f"### `{file.rpartition('/')[2]}`", "", about, ""]
            lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
            for name, text in names.items():
                shown = name if name.startswith("(") else f"`{name}`"
                lines.append(f"| {shown} | {kinds.get(name, '') + ' | ' if kinds else ''}{text} |")
            lines.append("")
    return "\n".join(lines)


def undocumented(root: Path, folder: str) -> list[str]:
    """Return the columns and keys that the reference lacks, of the files of `folder` (see `files`) below a path."""
    missing = []
    for file, names in meanings().items():
        if file.rpartition("/")[0] == folder and (root / file.rpartition("/")[2]).is_file():
            found = root / file.rpartition("/")[2]
            if found.suffix == ".json":
                values = read_json(found)
                known = values.get("details", {}) if "(scores)" in names else {}
                values = {name: value for name, value in values.items() if name not in known}
                missing += [f"{file}: {key}" for key in _unknown_keys(values, names)]
            else:
                missing += [f"{file}: {name}" for name in _unknown_columns(found, names)]
    return missing


def is_covered(key: str, names: Mapping[str, str]) -> bool:
    """Return whether a key has a meaning, or is part of one that is described as a whole."""
    parent = key.rpartition(".")[0].removesuffix(".NAME")
    return key in names or (bool(parent) and not _parts(names, parent) and is_covered(parent, names))


def _unknown_columns(file: Path, names: Mapping[str, str]) -> Iterator[str]:
    several = {"(choices)": COMPOSED_GROUPS, "(hyperparameters)": SEARCHABLE}
    varied = {name for mark, part in several.items() if mark in names for name in part}
    for name in pd.read_csv(file, nrows=0).columns:
        general = re.sub(r"^p_.+?(?=_tta$|_calibrated$|$)", "p_CLASS", name)
        if general not in names and name not in varied and "(jobs)" not in names:
            yield name


def _unknown_keys(values: Mapping[str, Any], names: Mapping[str, str], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        key = next((one for one in (f"{prefix}{name}", f"{prefix}NAME") if one in names or _parts(names, one)), None)
        if key is None:
            yield f"{prefix}{name}"
        elif isinstance(value, Mapping) and _parts(names, key):
            yield from _unknown_keys(value, names, f"{key}.")


def _parts(names: Mapping[str, str], key: str) -> list[str]:
    return [name for name in names if name.startswith(f"{key}.")]
