"""`aqd-deploy targets`: the device profiles that `compile --target` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aqd_deploy.cli.options import json_option
from aqd_deploy.cli.output import print_json, print_text, progress, verb

if TYPE_CHECKING:
    from aqd_deploy.targets import Target

_FIGURES = (
    ("SoC", "soc", "{}"),
    ("cores", "cores", "{}"),
    ("clock", "clock_ghz", "{} GHz"),
    ("L1 data cache", "l1d_kib", "{} KiB"),
    ("L2 cache", "l2_kib", "{} KiB"),
    ("cores that share it", "l2_cores", "{}"),
    ("L3 cache", "l3_kib", "{} KiB"),
    ("memory bandwidth", "bandwidth_gb_s", "{} GB/s"),
    ("int8 rate of a core", "int8_macs_per_cycle", "{} multiply-accumulates a cycle"),
)


@verb(name="targets")
@click.argument("action", type=click.Choice(["list", "show"]), default="list")
@click.argument("name", required=False)
@json_option
def command(action: str, name: str | None, as_json: bool) -> None:
    """List the device profiles, or show one (`targets show NAME`) with all that will be emitted for it.

    Profiles of your own are read from the folders in AQD_DEPLOY_TARGETS and from
    ~/.config/aqd-deploy/targets.
    """
    if action == "show":
        if name is None:
            raise click.UsageError("targets show needs the NAME of a profile")
        _show(name, as_json)
    else:
        _list(as_json)


def _list(as_json: bool) -> None:
    from aqd_deploy.targets import get, names, problems
    from aqd_deploy.targets.architectures import ARCHITECTURES

    for error in problems().values():
        progress(f"left out: {error.sentence()}")
    profiles = [_as_dict(get(each)) for each in names()]
    if as_json:
        print_json(profiles)
        return
    groups = [
        (each.title, [profile for profile in profiles if profile["architecture"] == each.name])
        for each in ARCHITECTURES
    ]
    print_text("\n\n".join(f"{title}\n{_group(members)}" for title, members in groups if members))


def _group(profiles: list[dict[str, Any]]) -> str:
    from aqd_deploy.tables import table

    rows = [[p["name"], ", ".join(p["aliases"]), p["kernels"], p["description"]] for p in profiles]
    return table(["name", "or", "kernels", "description"], rows)


def _show(name: str, as_json: bool) -> None:
    from aqd_deploy.reporting.readiness import toolchain_state
    from aqd_deploy.tables import key_values
    from aqd_deploy.targets import get, path_of

    target = get(name)
    state = toolchain_state(target)
    if as_json:
        print_json({
            **_as_dict(target), "file": path_of(target), "tvm_target": target.tvm(), "toolchain_found": state,
        })  # fmt: skip
        return
    print_text(key_values(_lines(target, state, path_of(target))))


def _lines(target: Target, toolchain: dict[str, Any], path: str) -> dict[str, object]:
    import json

    install = toolchain.get("next_command")
    found = toolchain["detail"] if install is None else f"{toolchain['detail']}; try: {install}"
    figures = {
        title: text.format(value) + (f" ({target.sources[key]})" if key in target.sources else "")
        for title, key, text in _FIGURES
        if (value := getattr(target, key))
    }
    return {
        "name": ", ".join((target.name, *target.aliases)),
        "description": target.description,
        **figures,
        "architecture": target.architecture,
        "triple": target.triple,
        "CPU": target.cpu,
        "attributes": " ".join(target.attributes) or "none beside the CPU's own",
        "demands of the CPU": " ".join(target.features) or "nothing beside the architecture",
        "kernels": target.kernels,
        **_backend(target),
        **({} if target.card else {"TVM target": json.dumps(target.tvm())}),
        "toolchain": found,
        "device": target.device or "not named: say --device",
        "file": path or "a TVM target string",
    }


def _backend(target: Target) -> dict[str, str]:
    """The backend, where it is not the one of nearly all profiles."""
    from aqd_deploy.reporting.readiness import kernels_state
    from aqd_deploy.targets import DEFAULT_BACKEND

    if target.backend == DEFAULT_BACKEND:
        return {}
    state = kernels_state(target)
    return {"backend": target.backend if state["state"] == "ok" else state["detail"]}


def _as_dict(target: Target) -> dict[str, Any]:
    import dataclasses

    return {**dataclasses.asdict(target), "kernels": target.kernels}
