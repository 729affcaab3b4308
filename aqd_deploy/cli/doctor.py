"""`aqd-deploy doctor`: what is installed, what this CPU can do, and what to install."""

from __future__ import annotations

from typing import Any

import click

from aqd_deploy.cli.options import json_option
from aqd_deploy.cli.output import print_json, print_text, verb


@verb(name="doctor")
@click.option("--target", metavar="NAME",
              help="Tell what compiling for this profile, and running its programs here, needs.")  # fmt: skip
@click.option("--try-toolchain", is_flag=True,
              help="With --target: also run the compiler command that the profile itself names.")  # fmt: skip
@json_option
def command(target: str | None, try_toolchain: bool, as_json: bool) -> None:
    """Tell what is installed against what is wanted, the kernels this CPU gets, and how to install what is
    missing.

    The compilers of the system are tried. A compiler command that a profile names is only looked for.
    """
    if target is not None:
        _target(target, try_toolchain, as_json)
        return
    if try_toolchain:
        raise click.UsageError("--try-toolchain needs --target NAME")
    from aqd_deploy.reporting.diagnosis import diagnosis

    document = diagnosis()
    if as_json:
        print_json(document)
    else:
        print_text(_text(document))
    base = [problem for problem in document["problems"] if problem["extra"] == "base"]
    if base:
        from aqd_deploy.errors import AqdError

        raise AqdError(f"not ready: {base[0]['what']}", next_command=base[0]["next_command"])


def _target(name: str, try_toolchain: bool, as_json: bool) -> None:
    from aqd_deploy.errors import AqdError
    from aqd_deploy.reporting.readiness import lacking, readiness
    from aqd_deploy.targets import get

    document = readiness(get(name), try_toolchain=try_toolchain)
    if as_json:
        print_json(document)
    else:
        print_text(_target_text(document))
    for check in lacking(document["checks"]):
        raise AqdError(
            f"not ready to compile for {document['target']}: {check['detail']}",
            next_command=check.get("next_command"),
        )


def _target_text(document: dict[str, Any]) -> str:
    from aqd_deploy.tables import key_values, table

    rows = [[c["what"], c["needed_for"], c["state"], c["detail"]] for c in document["checks"]]
    head = {key: document[key] for key in ("target", "triple", "cpu", "kernels")}
    parts = [key_values(head), table(["what", "needed for", "state", "detail"], rows)]
    notes = [f"{c['what']}: {c['next_command']}" for c in document["checks"] if "next_command" in c]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])


def _text(document: dict[str, Any]) -> str:
    from aqd_deploy.tables import key_values, lines_of, table

    environment = dict(document["environment"])
    limits = environment.pop("thread_limits")
    environment.pop("packages")
    machine = {
        **environment,
        "threads": f"{environment['threads']} ({limits})",
        "CPU features": " ".join(document["cpu_features"]) or "none of those the kernels use",
        **({"not offered": document["withheld"]} if document["withheld"] else {}),
        "kernels": document["kernels"],
        "linker": document["linker"] or "none",
    }
    rows = [
        [entry["package"], entry["extra"] or "base", entry["wanted"], entry["installed"], entry["state"]]
        for entry in document["requirements"]
    ]
    checks = [[c["needed_for"], c["what"], c["state"], c["detail"]] for c in document["checks"]]
    parts = [
        key_values(machine),
        table(["package", "extra", "wanted", "installed", "state"], rows),
        table(["needed for", "what", "state", "detail"], checks),
    ]
    notes = [f"{p['extra']}: {p['what']}: {p['next_command']}" for p in document["problems"]]
    return "\n\n".join([*parts, *([lines_of(notes)] if notes else [])])
