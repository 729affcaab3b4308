"""`aqd-deploy doctor`: what is installed, what this CPU can do, and what to install."""

from __future__ import annotations

from typing import Any

from aqd_deploy.cli.options import json_option
from aqd_deploy.cli.output import print_json, print_text, verb


@verb(name="doctor")
@json_option
def command(as_json: bool) -> None:
    """Tell what is installed against what is wanted, the kernels this CPU gets, and how to install what is
    missing.
    """
    from aqd_deploy.reporting.environment import diagnosis

    document = diagnosis()
    if as_json:
        print_json(document)
    else:
        print_text(_text(document))
    base = [problem for problem in document["problems"] if problem["extra"] == "base"]
    if base:
        from aqd_deploy.errors import AqdError

        raise AqdError(f"not ready: {base[0]['what']}", next_command=base[0]["next_command"])


def _text(document: dict[str, Any]) -> str:
    from aqd_deploy.reporting.tables import key_values, table

    environment = {key: value for key, value in document["environment"].items() if key != "packages"}
    machine = {
        **environment,
        "CPU features": " ".join(document["cpu_features"]) or "none of those the kernels use",
        "kernels": document["kernels"],
        "linker": document["linker"],
    }
    rows = [
        [entry["package"], entry["extra"] or "base", entry["wanted"], entry["installed"], entry["state"]]
        for entry in document["requirements"]
    ]
    parts = [key_values(machine), table(["package", "extra", "wanted", "installed", "state"], rows)]
    notes = [f"{p['extra']}: {p['what']}: {p['next_command']}" for p in document["problems"]]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])
