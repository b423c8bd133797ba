"""Entry point: images -> what is wrong or odd in them: on the terminal, as a page, as tables. Runs without TensorFlow.

python -m catsdogs.audit train.zip                             files, sizes, copies
python -m catsdogs.audit train.zip --study multirun/NAME       and labels that the study's models contradict
python -m catsdogs.audit train.zip --test test.zip             and how many test images are copies
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from catsdogs.base.errors import UserError, exit_status_of
from catsdogs.base.files import check_page, check_tables_folder
from catsdogs.base.text import sanitize_line
from catsdogs.config.locations import add_cache_option


def _audit(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    # Here, so that --help is quick.
    from catsdogs.data.archive import open_images
    from catsdogs.data_audit.findings import TITLES, findings, write_tables
    from catsdogs.data_audit.page import write_page
    from catsdogs.data_audit.terminal import print_findings

    check_page(options.output, "audit")
    tables = {f"{name}.csv" for name in TITLES}
    check_tables_folder(options.output, options.output.with_suffix(""), lambda there: there <= tables)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = open_images(options.images, options.cache)
    test_folder = None if options.test is None else open_images(options.test, options.cache)
    found = findings(options.images, folder, options.study, test_folder, options.cache)
    beside = options.output.with_suffix("")
    try:
        write_page(options.output, found, write_tables(beside, found))
    except OSError as error:
        raise UserError(
            f"{error.filename or options.output}: cannot be written ({error.strerror}); choose another --output=FILE"
        ) from error
    print_findings(found)
    for line in ("", f"Page: {options.output}", f"Tables: {beside}{os.sep}"):
        print(sanitize_line(line))
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="catsdogs-audit",
        description="What is wrong or odd in these images? Finds files that do not decode, tiny images, "
        "copies and suspected wrong labels; writes one page with pictures that needs no network, and tables.",
    )
    parser.add_argument("images", type=Path, help="zip or folder of labelled images, for example train.zip")
    parser.add_argument(
        "--study",
        nargs="+",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="studies that were searched on these images; the best trials of their jobs are asked about the labels",
    )
    parser.add_argument("--test", type=Path, help="zip or folder of test images, in which copies are counted")
    parser.add_argument(
        "--output", type=Path, default=Path("audit.html"), metavar="FILE", help="the page (default: %(default)s)"
    )
    add_cache_option(parser, "where zips are unpacked and hashes are kept")
    return parser.parse_args(arguments)


def main() -> int:
    return exit_status_of(_audit)


if __name__ == "__main__":
    sys.exit(main())
