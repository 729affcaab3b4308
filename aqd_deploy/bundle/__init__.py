"""Bundles: a folder with a program, its runtime and a native runner, for a device without Python."""

from __future__ import annotations

from aqd_deploy.bundle.create import Bundle, create_bundle, read_bundle

__all__ = ["Bundle", "create_bundle", "read_bundle"]
