"""Parts of a dataset: folders such as train, test and valid inside one zip or folder of images."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pandas as pd

from catsdogs.base.errors import UserError
from catsdogs.base.text import listed, natural_key
from catsdogs.data.archive import ImageFolder
from catsdogs.data.catalog import build_catalog, ids_of

# Names of part folders, in any case, by the setting that uses them; no setting uses `sample`.
NAMES = {
    "train": ("train", "training", "training_set"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "test_set"),
    "sample": ("sample",),
}
_ROLES = {name: role for role, names in NAMES.items() for name in names}
_PURPOSES = {"train": "for training", "validation": "for validation", "test": "as the test set"}


def part_names(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the part folder of each image, and the folders of a level that looks like parts but is not.

    Folders are parts only if all folders of their level that hold images have names of parts, and at least one is a
    training part. Levels are searched from the root. A single folder is a part only if there are images outside of
    it, and no deeper level has parts: archives often repeat a folder, as in train/train and train/test. Names of part
    folders are in the order of the relative `paths`, "" outside all parts.
    """
    folders = [path.split("/")[:-1] for path in paths]
    found, unclear = [""] * len(paths), list[str]()
    branched = False  # below several folders, an image without a part belongs to a class; it is not a stray file
    for depth in range(max(map(len, folders), default=0)):
        level = [parents[depth] if depth < len(parents) else "" for parents in folders]
        names = sorted(set(level) - {""})
        roles = {_ROLES.get(name.lower(), "") for name in names}
        if "train" in roles and "" not in roles and not (branched and "" in level):
            found = level
            if len(names) > 1:
                return found, []
        elif len(names) > 1 and roles != {""}:
            unclear = unclear or names
        branched |= len(names) > 1
    return ([""] * len(paths) if len(set(found)) == 1 else found), unclear


@dataclass(frozen=True)
class Parts:
    """Catalog of a source, and the parts that it has."""

    source: str  # name for messages, such as `data.train=input`
    folder: ImageFolder  # all images
    table: pd.DataFrame  # their catalog
    names: list[str]  # these two as returned by `part_names`
    unclear: list[str]

    @classmethod
    def of(cls, source: str, folder: ImageFolder, cache: Path) -> Self:
        """Catalog a folder and find its parts."""
        table = build_catalog(folder, cache)
        return cls(source, folder, table, *part_names(list(table["path"])))

    def part(self, role: str) -> str | None:
        """Return the name of the part with a role (key of `NAMES`), or None; several are a `UserError`."""
        names = sorted(name for name in set(self.names) if _ROLES.get(name.lower()) == role)
        if len(names) > 1:
            parts = " and ".join(names)
            raise UserError(f"{self.source}: several parts for data.{role}, {parts}; pass the folder of one of them")
        return names[0] if names else None

    def images(self, role: str) -> pd.DataFrame:
        """Return the catalog of the part with this role, or of all images if the source has no parts.

        Ids are relative to the part, rows in their natural order, indexed from 0. Without a part of this role among
        the parts, raise a `UserError`.
        """
        if not any(self.names):
            return self.table
        name = self.part(role)
        if name is None:
            parts = listed(sorted(set(self.names) - {""}))
            problem = f"has parts ({parts}), but none named {' or '.join(NAMES[role])}"
            raise UserError(f"{self.source}: {problem}; pass the folder of the images to use")
        rows = self.table[[part == name for part in self.names]]
        rows = rows.assign(id=ids_of(list(rows["path"])))
        return rows.sort_values("id", key=lambda ids: ids.map(natural_key), ignore_index=True)

    def check_classes(self, classes: Collection[str], requested: list[str] | None) -> None:
        """Raise a `UserError` if folders that may be parts would be classes, without being `requested`."""
        if requested is None and self.unclear and {*self.unclear} <= {*classes}:
            problem = f"folders {listed(self.unclear)} may be parts or classes"
            raise UserError(f"{self.source}: {problem}; pass the path of one of them, or set data.classes")

    def note(self, *roles: str) -> str:
        """Return a line with the parts that are used, for these roles, and the others; "" for a source without."""
        counts = Counter(self.names)
        if self.unclear and not any(self.names):
            reason = f"the folders {listed(self.unclear)} are not a training part and other parts only"
            use = f"using all {len(self.names):,} images, because {reason}; to use one of them, pass its path"
            return f"{self.source}: {use}"
        if not any(self.names):
            return ""
        shown = {name: f"part {name} ({count:,} image{'s' * (count > 1)})" for name, count in counts.items() if name}
        used = {name: _PURPOSES[role] for role in roles if (name := self.part(role))}
        unused = [shown[name] for name in sorted(set(shown) - set(used))]
        if outside := [path for path, name in zip(self.table["path"], self.names, strict=True) if not name]:
            unused.append(f"{len(outside):,} outside the parts ({listed(outside)})")
        parts = [f"{shown[name]} {purpose}" for name, purpose in used.items()]
        return f"{self.source}: using {', '.join(parts)}" + (f"; not used: {', '.join(unused)}" if unused else "")


def with_validation_ids(table: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Return validation images with ids that start with `validation/` and differ from those of `images`."""
    ids = "validation/" + table["id"]
    while ids.isin(images["id"]).any():
        ids = "validation/" + ids
    return table.assign(id=ids)
