import pytest
from plots import all_figures, write_night


@pytest.fixture(scope="session")
def study_data(tmp_path_factory):
    return write_night(tmp_path_factory.mktemp("studies"))


@pytest.fixture(scope="session")
def figures(study_data):
    return all_figures(study_data)
