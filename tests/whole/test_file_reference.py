"""The reference of files has every declared column and key, and those of the files that are written."""

import files_page
from studies import write_job

from catsdogs.comparison.page.writing import write_report


def test_every_declared_column_and_key_has_a_meaning():
    for file in files_page.DECLARED:
        names = files_page.meanings()[file]
        assert not [key for key in files_page.types(file) if not files_page.is_covered(key, names)], file
    assert {*files_page.TITLES} <= {*files_page.meanings()}


def test_a_part_of_a_key_with_described_parts_needs_a_meaning():
    names = {"a": "", "a.b": "", "c": "", "d.NAME.e": "", "d": ""}
    covered = [
        key for key in ("a", "a.b", "a.x", "c.x.y", "d.NAME.e", "d.NAME.f", "f") if files_page.is_covered(key, names)
    ]
    assert covered == ["a", "a.b", "c.x.y", "d.NAME.e"]
    values = {"a": {"b": 1, "x": 2}, "c": {"x": 1}, "d": {"log_loss": {"e": 1, "f": 2}}, "f": 1}
    assert [*files_page._unknown_keys(values, names)] == ["a.x", "d.NAME.f", "f"]


def test_tables_of_a_report_have_only_known_columns(tmp_path):
    study = tmp_path / "night"
    for smoothing in ("none", "mild"):
        write_job(
            study, {"backbone": "b", "augmentation": "a", "schedule": "s", "label_smoothing": smoothing}, trials=12
        )
    write_report([study], study / "report.html", False, False)
    assert len([*(study / "report").glob("*.csv")]) >= 8
    assert files_page.undocumented(study / "report", "report") == []
    (study / "report" / "trials.csv").write_text("label,p_dog,new\n")
    expected = ["report/trials.csv: p_dog", "report/trials.csv: new"]
    assert files_page.undocumented(study / "report", "report") == expected


def test_the_page_has_type_range_and_meaning_of_every_column():
    page = files_page.files("JOB")
    assert "| `val_accuracy` | number, 0 to 1, or empty | mean over executions at the best epoch |" in page
    assert "| `status` | one of `ok`, `failed`, `running` |" in page
    assert "Misclassified images, highest log loss first." in files_page.files("report")
