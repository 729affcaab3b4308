"""Hundreds of damaged files of every kind, through every verb that reads them: a sentence, or work that is
done; no crash, no hang, no "unexpected", nothing left behind.

The cases follow from a seed: `AQD_DAMAGED_SEED` and `AQD_DAMAGED_COUNT` ask for others than those of CI, for
example

    AQD_DAMAGED_SEED=7 AQD_DAMAGED_COUNT=10000 pytest tests/robustness/test_damaged_files.py

and `AQD_DAMAGED_KEEP=DIR` keeps the files of cases that go wrong. `damaged.py` runs them and says what must
hold; `subjects.py` has the files, `mutations.py` the damage.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SEED = int(os.environ.get("AQD_DAMAGED_SEED", "12"))
COUNT = int(os.environ.get("AQD_DAMAGED_COUNT", "800"))
KEEP = os.environ.get("AQD_DAMAGED_KEEP")
BATCHES = 4
LIMIT = int(os.environ.get("AQD_DAMAGED_LIMIT", "60"))


@pytest.mark.parametrize("batch", range(BATCHES))
def test_damaged_files_end_in_a_sentence(batch):
    pytest.importorskip("torch")
    first, end = COUNT * batch // BATCHES, COUNT * (batch + 1) // BATCHES
    findings = []
    while first < end:
        reached, found = _run(first, end - first)
        findings += found
        first = reached
    assert not findings, f"{len(findings)} of {COUNT} cases, seed {SEED}:\n" + "\n".join(findings)


def _run(first: int, count: int) -> tuple[int, list[str]]:
    """The number of the case behind the last one that was run, and what went wrong; a process that dies ends
    with the case it was at.
    """
    script = Path(__file__).with_name("damaged.py")
    command = [sys.executable, str(script), "--seed", str(SEED), "--first", str(first), "--count", str(count),
               "--limit", str(LIMIT), *(["--keep", KEEP] if KEEP else [])]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    findings = [f"{each['finding']}: {each['case']}: {each['problem']}" for each in told if "finding" in each]
    begun = [each["begun"] for each in told if "begun" in each]
    assert begun, done.stderr[-3000:]
    if done.returncode:
        findings.append(f"{begun[-1]}: the process ended with {done.returncode}: {done.stderr[-1500:]}")
    return begun[-1] + 1, findings
