"""The page of a report: which sections it has, in which order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aqd_deploy.reporting.page.blocks import Block, Page, Section
from aqd_deploy.reporting.page.figures import count, written
from aqd_deploy.reporting.page.pictures import PictureBudget
from aqd_deploy.reporting.page.sections.accuracy import accuracy
from aqd_deploy.reporting.page.sections.agreement import agreement
from aqd_deploy.reporting.page.sections.cost import cost
from aqd_deploy.reporting.page.sections.latency import latency
from aqd_deploy.reporting.page.sections.layers import layers
from aqd_deploy.reporting.page.sections.overview import overview
from aqd_deploy.reporting.page.sections.pictures import pictures
from aqd_deploy.reporting.page.sections.reproduce import reproduce
from aqd_deploy.reporting.page.sections.verdict import verdict


def report_page(document: Mapping[str, Any], folder: Path | None = None) -> Page:
    """The page of a checked report; pictures are read from `folder`, without one they are left out."""
    count_of_models = max(len(document["models"]), 1)
    models = [
        _model(model, f"model{index}", PictureBudget.share(folder, count_of_models))
        for index, model in enumerate(document["models"])
    ]
    sections: list[Section | None] = [verdict(document), overview(document), *models, reproduce(document)]
    machine, images = document["environment"], document["images"]
    about = [
        f"{document['created']}, {machine['cpu']}, {machine['threads']} threads, {machine['system']}.",
        f"{written(count(images['count']))} images of {images['folder']}.",
    ]
    return Page(f"Report of aqd-deploy {document['kind']}", about, [each for each in sections if each])


def _model(model: Mapping[str, Any], name: str, budget: PictureBudget) -> Section:
    parts: list[Section | None] = [
        accuracy(model, name), pictures(model, budget), latency(model), agreement(model), cost(model),
        layers(model, name),
    ]  # fmt: skip
    blocks: list[Block] = [part for part in parts if part]
    return Section(model["name"], blocks)
