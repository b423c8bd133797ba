"""Tables of a job."""

import numpy as np
import pandas as pd

from catsdogs.scoring.classes import Classes
from catsdogs.study.job_tables import VALIDATION, JobTables, ResumeState


def test_predictions_of_many_classes_are_written_without_a_warning(tmp_path):
    classes = Classes(tuple(f"class{number}" for number in range(150)))  # pandas warns from 100 columns
    validation = pd.DataFrame({"id": ["a", "b"], "label": [0, 149]}, index=[3, 1])
    probabilities = np.eye(150)[[0, 149]]
    JobTables(tmp_path, validation, ResumeState(), classes).write_validation(probabilities, "2", 0)
    table = pd.read_csv(tmp_path / VALIDATION)
    assert list(table) == ["id", "label", *classes.columns(), "trial", "execution"]
    np.testing.assert_array_equal(classes.read(table), probabilities)
