"""Pictures of a run as they go into a page: smaller, as WebP, and together within a limit."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from aqd_deploy.detection.images import load_image
from aqd_deploy.errors import AqdError

KIND = "image/webp"
_LONGEST_SIDE = 640
_QUALITY = 80


@dataclass
class PictureBudget:
    """`images` in which boxes are shown at most, and the bytes that all their pictures may have."""

    folder: Path | None
    images: int = 12
    size: int = 2_400_000

    @classmethod
    def share(cls, folder: Path | None, parts: int) -> PictureBudget:
        """That of one of several networks on a page, with one image at least."""
        return cls(folder, max(1, cls.images // parts), cls.size // parts)

    def take(self, names: list[str]) -> list[bytes | None] | None:
        """The pictures of one image, by their names in the folder, None for one that cannot be shown; None
        for all where there is no room for them.
        """
        if self.images < 1 or self.folder is None:
            return None
        found = [self._encoded(self.folder, name) for name in names]
        size = sum(len(data) for data in found if data is not None)
        if size > self.size:
            return None
        self.images -= 1
        self.size -= size
        return found

    def _encoded(self, folder: Path, name: str) -> bytes | None:
        """None for what is no image, or does not lie in the folder."""
        path = folder / name
        try:
            if not path.resolve().is_relative_to(folder.resolve()):
                return None
            image = Image.fromarray(load_image(path))
        except (AqdError, OSError, ValueError):
            return None
        image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        written = io.BytesIO()
        image.save(written, format="WEBP", quality=_QUALITY, method=4)
        return written.getvalue()
