"""What lowering proved, of what, and what that says of the whole network: the sentences of every view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COUNTS = (
    "requantized_channels",
    "proven",
    "proven_of_network",
    "largest_input_error_steps",
    "requantizations_count",
    "equal_end_to_end",
)
FIELDS = ("numerics", *COUNTS, "float_tensors")
"""What a report and a manifest's `lowering` share."""


def sentences(entry: Mapping[str, Any]) -> list[str]:
    """Three sentences: constants, input error, end to end; one where nothing is requantized.

    `entry` is a report of lowering or a manifest's `lowering`. One that an older version wrote has no fields
    for the second and third; what is not a number is not told.
    """
    numbers = [entry.get(name) for name in COUNTS]
    channels, proven, exact, error, count, equal = (
        number if isinstance(number, (int, float)) else None for number in numbers
    )
    if channels is None or proven is None:
        return []
    if not channels:
        return ["no value is requantized"]
    told = [
        f"{proven} of {channels} requantized channels have proven constants: every integer that can reach "
        "them gets the code of its own value, rounded half to even"
    ]
    if exact is None or error is None or count is None or equal is None:
        return told
    if error == 0:
        these = "these integers" if proven == channels else f"the integers of these {proven}"
        told.append(f"{these} are exact: on the same codes the network decides the same")
    else:
        told.append(
            f"the integers of {exact} of these channels are exact, so on the same codes the network decides "
            f"the same; what others read was rounded before, by at most {error:.3g} quantizer steps"
        )
    if equal == count:
        told.append("end to end, all codes are proven to be those of the fake-quantized network")
    else:
        told.append(
            f"end to end, the codes of {equal} of {count} requantizations are proven to be those of the "
            "fake-quantized network; of the others some may differ"
        )
    return told
