import pytest

from catsdogs.base.text import binary_size, counted


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (2_265_600, "2.2 MiB"), (2**30, "1.0 GiB"), (5.3 * 2**30, "5.3 GiB")],
)
def test_sizes_have_the_unit_in_which_they_are_at_least_one(size, text):
    assert binary_size(size) == text


def test_one_is_singular():
    assert [counted(number, "trial") for number in (0, 1, 2000)] == ["0 trials", "1 trial", "2,000 trials"]
