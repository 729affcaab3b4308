"""docs/formats.md: the versions it gives are those of the code, and readers of another version do what it
says.
"""

import dataclasses
import json
from pathlib import Path

import pytest
from odd_graphs import chain

from aqd_deploy.bench.document import BENCH_SCHEMA
from aqd_deploy.bundle import create
from aqd_deploy.errors import AqdError, ModelFileError, UnsupportedModelError
from aqd_deploy.integer import dialect
from aqd_deploy.integer.manifest import MANIFEST_KEY, SCHEMA, read_manifest
from aqd_deploy.integer.reader import read_graph
from aqd_deploy.kernels import KERNEL_VERSION
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue
from aqd_deploy.passes.pipeline import lower
from aqd_deploy.passes.report import REPORT_SCHEMA as LOWERING_SCHEMA
from aqd_deploy.quantization.recipe import VERSION as RECIPE_VERSION
from aqd_deploy.records.file import RECORDS_FORMAT, Header, parse_records
from aqd_deploy.records.task import TASK_FORMAT, Task
from aqd_deploy.reporting.document import REPORT_SCHEMA, check_report
from aqd_deploy.runtime import container
from aqd_deploy.targets import get
from aqd_deploy.targets.isa import Isa
from aqd_deploy.tuning.card_batch import BATCH_FORMAT
from aqd_deploy.workflow.evaluation.results import VERSION as EVALUATION_VERSION

PAGE = Path(__file__).resolve().parents[2] / "docs" / "formats.md"


def versions():
    """The version of every format in the page's table."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.read_text().splitlines()
        if line.startswith("| ") and not line.startswith("| format")
    ]
    return {row[0]: int(row[3]) for row in rows}


def test_the_versions_are_those_of_the_code():
    pytest.importorskip("torch")
    from aqd_deploy.qat import checkpoint, config

    assert versions() == {
        "recipe": RECIPE_VERSION,
        "evaluation": EVALUATION_VERSION,
        "QDQ file": SCHEMA,
        "integer dialect": dialect.DOMAIN_VERSION,
        "model description": config.SCHEMA,
        "checkpoint": checkpoint.VERSION,
        "training run": config.SCHEMA,
        "program": container.FORMAT_VERSION,
        "bundle": create.FORMAT_VERSION,
        "tuning records": RECORDS_FORMAT,
        "batch": BATCH_FORMAT,
        "task": TASK_FORMAT,
        "kernels": KERNEL_VERSION,
        "report": REPORT_SCHEMA,
        "bench": BENCH_SCHEMA,
        "lowering report": LOWERING_SCHEMA,
    }


def test_a_manifest_of_another_version_is_refused():
    model = chain()
    entry = next(entry for entry in model.metadata_props if entry.key == MANIFEST_KEY)
    entry.value = json.dumps({"schema": SCHEMA})
    assert read_manifest(model) == {"schema": SCHEMA}
    entry.value = json.dumps({"schema": SCHEMA + 1})
    with pytest.raises(ModelFileError, match="schema"):
        read_manifest(model)


def test_a_dialect_of_another_version_is_refused():
    model = lower(chain()).model
    read_graph(model)
    next(entry for entry in model.opset_import if entry.domain == dialect.DOMAIN).version += 1
    with pytest.raises(UnsupportedModelError, match="operator sets"):
        read_graph(model)


def test_a_report_of_another_version_is_refused():
    with pytest.raises(AqdError, match="another schema"):
        check_report({"schema": REPORT_SCHEMA + 1})


def test_records_of_another_version_are_ignored_with_a_note():
    header = Header.here(get("x86-64-v3"))
    other = {**header.to_json(), "aqd_tuning_records": RECORDS_FORMAT + 1}
    assert parse_records(json.dumps(header.to_json()).encode() + b"\n", "r.jsonl").header == header
    records = parse_records(json.dumps(other).encode() + b"\n", "r.jsonl")
    assert records.header is None
    assert records.notes == [f"r.jsonl: ignored: its format is {RECORDS_FORMAT + 1}, not {RECORDS_FORMAT}"]


def test_records_of_other_kernels_do_not_hold():
    device = get("x86-64-v3")
    here = Header.here(device)
    assert here.unfit_for(device) == ""
    assert "kernels version" in dataclasses.replace(here, kernels=KERNEL_VERSION + 1).unfit_for(device)


def test_a_task_of_another_version_is_none():
    definition = Task(ConvSpec(4, 4, 4, 4, (1, 1)), Epilogue(), Isa.PORTABLE, 1).to_json()
    assert Task.from_json(definition).to_json() == definition
    with pytest.raises(ValueError, match="task format"):
        Task.from_json({**definition, "format": TASK_FORMAT + 1})
