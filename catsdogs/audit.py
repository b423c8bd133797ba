"""Command that checks images for problems and writes an HTML report and CSV tables. TensorFlow is not imported.

python -m catsdogs.audit train.zip                             files, sizes, duplicates
python -m catsdogs.audit train.zip --study multirun/NAME       also likely label errors
python -m catsdogs.audit train.zip --test test.zip             also duplicates in the test set
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from catsdogs.base.errors import exit_status_of
from catsdogs.base.files import check_page, check_tables_folder
from catsdogs.base.interrupts import held
from catsdogs.base.text import sanitize_line
from catsdogs.config.locations import add_cache_option, typed_path, typed_study


def _audit(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    # Imported here to keep --help fast.
    from catsdogs.data.archive import open_images
    from catsdogs.data_audit.findings import TITLES, audit_images, write_tables
    from catsdogs.data_audit.page import write_page
    from catsdogs.data_audit.terminal import print_findings

    check_page(options.output, "audit")
    tables_folder, tables = options.output.with_suffix(""), {f"{name}.csv" for name in TITLES}
    check_tables_folder(options.output, tables_folder, lambda names: names <= tables)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = open_images(options.images, options.cache)
    test_folder = None if options.test is None else open_images(options.test, options.cache)
    for source, opened in ((options.images, folder), (options.test, test_folder)):
        if opened is not None and opened.skipped:
            logging.warning("%s: %s", source, opened.skipped_message(source))
    findings = audit_images(options.images, folder, options.study, test_folder, options.cache, options.labels)
    with held():  # no page without tables
        write_page(options.output, findings, write_tables(tables_folder, findings))
    print_findings(findings)
    for line in ("", f"Report: {options.output}", f"Tables: {tables_folder}{os.sep}"):
        print(sanitize_line(line))
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="catsdogs-audit",
        description="Check images for problems: undecodable files, tiny images, duplicates and likely label errors. "
        "Writes an offline HTML report with thumbnails, and CSV tables.",
    )
    parser.add_argument("images", type=typed_path, help="zip or folder of labeled images, for example train.zip")
    about = "studies run on these images; the predictions of their best trials are used to flag likely label errors"
    parser.add_argument("--study", nargs="+", type=typed_study, default=[], metavar="FOLDER", help=about)
    parser.add_argument("--test", type=typed_path, help="zip or folder of test images, to count duplicates in")
    about = "table of labels, as for data.labels (default: that of the best job of --study)"
    parser.add_argument("--labels", type=typed_path, metavar="FILE", help=about)
    about = "HTML report (default: %(default)s)"
    parser.add_argument("--output", type=typed_path, default=Path("audit.html"), metavar="FILE", help=about)
    add_cache_option(parser, "for unpacked zips and image hashes")
    return parser.parse_args(arguments)


def main() -> int:
    """Run the command and return its exit status."""
    return exit_status_of(_audit)


if __name__ == "__main__":
    sys.exit(main())
