"""COCO: one JSON document with images, annotations and categories."""

from __future__ import annotations

import hashlib
from pathlib import Path

from aqd_deploy.detection.dataset import AnnotatedImages
from aqd_deploy.errors import AqdError
from aqd_deploy.evaluation.coco import ANNOTATIONS_FILE, parse_annotations
from aqd_deploy.evaluation.datasets.contract import DataSet, ImageFolder


class CocoFormat:
    """An image is found by the end of its path, which is its `file_name`."""

    name = "coco"
    told = "a COCO document (a .json file)"
    takes_names = False

    def reads(self, annotations: Path) -> bool:
        """Whatever is no folder: its reader says best what is wrong with it."""
        return not annotations.is_dir()

    def read(self, annotations: Path, images: ImageFolder, names: Path | None) -> DataSet:
        """Images that the document does not name have no id. Raises AqdError where it names none of them, or
        where images that it names are not there.
        """
        data = ANNOTATIONS_FILE.read(annotations)
        document = parse_annotations(data, str(annotations))
        known = AnnotatedImages(document)
        ids, refused = known.assign([path for path in images.files if known.names(path)])
        for error in refused.values():
            raise error
        there = set(ids.values())
        lacking = [each for each in document["images"] if each["id"] not in there]
        if lacking:
            raise _lacking(len(document["images"]), [str(each.get("file_name")) for each in lacking], images)
        return DataSet(self.name, document, ids, hashlib.sha256(data).hexdigest())


def _lacking(count: int, names: list[str], images: ImageFolder) -> AqdError:
    return AqdError(
        f"{len(names)} of {count} images that the annotations name are not in {images.root}",
        received=", ".join(names[:3]) + (" ..." if len(names) > 3 else ""),
        valid="a folder with all of them: the precision over fewer would be another number",
    )
