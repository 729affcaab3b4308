"""Rebuilds tables of the AQD paper on the composed digits: trains their arms and measures them.

    python examples/digits/studies/run.py STUDY [STUDY ...] --work DIR

`head-norm` is the paper's Table 3, `bits` Tables 2 and 4, `parts` Table 5; `scales` lowers the shipped
detectors, and what `bits` has trained, once more with scales of powers of two. Each arm writes
`DIR/arms/NAME.json` and a compact `DIR/checkpoints/NAME.pt` as it ends, and an arm that has both is not
trained again; `DIR/STUDY.json` has all of a study's. On a card the arms are trained beside each other in
minutes; without one it takes days.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import arms
import torch
from session import Session, Settings

from aqd_deploy.errors import AqdError

STUDIES = (*arms.STUDIES, "scales")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description="Rebuild tables of the AQD paper on the composed digits.")
    made.add_argument("studies", nargs="+", choices=STUDIES, metavar="STUDY",
                      help=f"one or several of {', '.join(STUDIES)}")  # fmt: skip
    made.add_argument("--work", type=Path, required=True, help="folder for images, checkpoints, results")
    made.add_argument("--iterations", type=int, nargs=2, default=(4000, 3000), metavar=("FLOAT", "QUANTIZED"),
                      help="of every float and of every quantized arm, at most")  # fmt: skip
    made.add_argument("--seconds", type=float,
                      help="end training by then with fewer iterations, as many for every arm")  # fmt: skip
    made.add_argument("--train-images", type=int, default=16000)
    made.add_argument("--heldout-images", type=int, default=400)
    made.add_argument("--batch", type=int, default=16)
    made.add_argument("--size", type=int, default=arms.SIZE, help="side of the images in pixels")
    made.add_argument("--only", default="", metavar="REGEX", help="arms whose name has it, with their starts")
    made.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    made.add_argument("--eager", action="store_true", help="do not capture steps as CUDA graphs")
    return made


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(given)
    counts = (*options.iterations, options.train_images, options.heldout_images, options.batch)
    if min(*counts, options.processes) < 1:
        parser().error("numbers of iterations, images and processes are at least 1")
    settings = Settings(
        work=options.work, iterations=tuple(options.iterations),
        seconds=options.seconds, eager=options.eager,
        train_images=options.train_images, heldout_images=options.heldout_images, batch=options.batch,
        size=options.size, command=command_of(given, options.work),
    )  # fmt: skip
    try:
        # Forked before a card is touched: the workers compose and measure, on the CPU.
        with ProcessPoolExecutor(options.processes, get_context("fork"), torch.set_num_threads, (1,)) as pool:
            Session(settings, pool).run(options.studies, options.only)
    except (AqdError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def command_of(given: list[str], work: Path) -> str:
    """What was typed, with DIR for the folder."""
    words = ["DIR" if word == str(work) else word for word in given]
    return " ".join(["python examples/digits/studies/run.py", *words])


if __name__ == "__main__":
    torch.set_num_threads(2)
    sys.exit(main())
