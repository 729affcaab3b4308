"""Where the peers' models lie: a temporary folder, or one that is kept so that nothing is converted twice."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from aqd_deploy.bench.network import Network, write_network
from aqd_deploy.errors import AqdError
from aqd_deploy.files import TemporaryFolder, made_once


@contextmanager
def network_folder(
    qdq: Path, manifest: dict[str, Any], images: np.ndarray | None, keep: Path | None
) -> Iterator[Network]:
    """The network of a QDQ file in `keep`, or in a temporary folder that goes when the block ends.

    In `keep` each network has a folder, named after what it depends on. Raises AqdError where `keep` cannot
    be made, UnsupportedModelError for a file that is not a canonical QDQ file.
    """
    if keep is None:
        with TemporaryFolder() as folder:
            yield write_network(qdq, manifest, images, folder)
        return
    try:
        keep.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AqdError("cannot keep models there", received=f"{keep}: {error.strerror}") from error
    # The name comes out of a file: without what leads to another folder, and short.
    name = re.sub(r"[^\w-]", "_", manifest.get("name") or qdq.stem)[:60]
    target = keep / f"{name}-{_key(qdq, manifest, images)}"

    def make(folder: Path) -> None:
        write_network(qdq, manifest, images, folder)

    yield Network(made_once(target, make))


def _key(qdq: Path, manifest: dict[str, Any], images: np.ndarray | None) -> str:
    digest = hashlib.sha256(qdq.read_bytes())
    digest.update(json.dumps(manifest.get("preprocessing", {}), sort_keys=True).encode())
    if images is not None:
        digest.update(images.tobytes())
    return digest.hexdigest()[:12]
