"""Writes the JSON Schema of report.json from the checks in the code: python tools/report_schema.py"""

import json
from pathlib import Path

import aqd_deploy.reporting
from aqd_deploy.reporting.document import REPORT_SCHEMA, report_schema

FILE = Path(aqd_deploy.reporting.__file__).parent / "schema" / f"report-{REPORT_SCHEMA}.json"

if __name__ == "__main__":
    FILE.write_text(json.dumps(report_schema(), indent=1) + "\n", encoding="utf-8")
    print(FILE)
