"""The ten lines that lie in a bundle for the person at the device."""

from __future__ import annotations

from typing import Any


def readme_text(manifest: dict[str, Any]) -> str:
    """README.txt of the bundle with `manifest`."""
    target, needs = manifest["target"], manifest["needs"]
    features = ", ".join(target["features"]) or "no features beyond the architecture's"
    reals = manifest["reals"]
    inputs = "; ".join(_tensor(entry, reals.get("inputs", {})) for entry in manifest["inputs"])
    outputs = "; ".join(_tensor(entry, {}) for entry in manifest["outputs"])
    first = manifest["inputs"][0]["name"]
    card = target.get("card")
    driver = f"an NVIDIA card of {card} and its driver (libcuda.so.1); " if card else ""
    licensed = [] if card else ["Contains Apache TVM's runtime, Apache License 2.0."]
    return "\n".join([
        f"{manifest['name'] or 'An integer-only network'}, compiled by aqd-deploy for {target['name']}.",
        "",
        f"Needs Linux on {target['architecture']} with {features}; {driver}no Python;",
        f"glibc {needs.get('GLIBC', '2')} or newer, libstdc++ with GLIBCXX_{needs.get('GLIBCXX', '3.4')}.",
        f"Run:    ./aqd-run --input {first}=x.npy --output out --repeat 10    (prints JSON, seconds)",
        f"In:     {inputs} (.npy or raw bytes)",
        f"Out:    {outputs}, as out/0.npy, out/1.npy, ... in this order",
        "Check:  ./aqd-run --verify    (so does every run; the hashes are in manifest.json)",
        "Help:   ./aqd-run --help    (keep the files of this folder together and unchanged)",
        *licensed,
        "",
    ])  # fmt: skip


def _tensor(entry: dict[str, Any], reals: dict[str, Any]) -> str:
    """A tensor and, where its integers stand for floats, how they are made of these."""
    told = f"{entry['name']} {entry['dtype']} {entry['shape']}"
    meaning = reals.get(entry["name"])
    if meaning is None:
        return told
    scale, zero_point = meaning["scale"], meaning["zero_point"]
    return f"{told} = clip(round(real/{scale}) + {zero_point}), as manifest.json says under reals"
