"""`aqd-deploy targets`: the device profiles that `compile --target` takes."""

from __future__ import annotations

import click

from aqd_deploy.cli.options import json_option
from aqd_deploy.cli.output import print_json, print_text, verb


@verb(name="targets")
@click.argument("action", type=click.Choice(["list", "show"]), default="list")
@click.argument("name", required=False)
@json_option
def command(action: str, name: str | None, as_json: bool) -> None:
    """List the device profiles, or show one (`targets show NAME`)."""
    from aqd_deploy.reporting.tables import key_values, table
    from aqd_deploy.targets import get, names

    if action == "show":
        if name is None:
            raise click.UsageError("targets show needs the NAME of a profile")
        profile = _as_dict(get(name))
        if as_json:
            print_json(profile)
        else:
            print_text(key_values(profile))
        return
    profiles = [_as_dict(get(each)) for each in names()]
    if as_json:
        print_json(profiles)
    else:
        print_text(table(["name", "description"], [[p["name"], p.get("description", "")] for p in profiles]))


def _as_dict(profile: object) -> dict:
    import dataclasses

    if dataclasses.is_dataclass(profile) and not isinstance(profile, type):
        return dataclasses.asdict(profile)
    return dict(vars(profile))
