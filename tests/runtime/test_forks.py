"""Programs in processes that were forked after they were loaded. Every script ends in time or fails."""

from __future__ import annotations

import pytest
from small_programs import run_script

POOL = """
import multiprocessing, sys
import numpy as np
from aqd_deploy.runtime import Program

program = Program.load(sys.argv[1])
inputs = [program.random_inputs(seed) for seed in range(12)]
expected = [program.run(each) for each in inputs] if sys.argv[2] == "after runs" else None

def run(index):
    return program.run(inputs[index])

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(3) as pool:
        results = pool.map_async(run, range(12)).get(timeout=60)
    for got, want in zip(results, expected or map(program.run, inputs)):
        for name in want:
            np.testing.assert_array_equal(got[name], want[name])
    print("equal")
"""


@pytest.mark.parametrize("when", ["after runs", "before runs"])
@pytest.mark.parametrize("index", [0, 1])
def test_a_pool_of_forked_processes(index, when, parallel_pair):
    assert run_script(POOL, parallel_pair[index].path, when) == "equal\n"


FORK = """
import os, signal, sys, threading
import numpy as np
from aqd_deploy.errors import ProgramError
from aqd_deploy.runtime import Program, lanes

program = Program.load(sys.argv[1])
inputs = program.random_inputs()
expected = program.run(inputs)

def same(other=None):
    got = (other or program).run(inputs)
    return all(np.array_equal(got[name], expected[name]) for name in expected)

def forked(work):
    '''The exit code of a child that does `work` and ends as a Python program ends.'''
    if (child := os.fork()) == 0:
        signal.alarm(30)
        sys.exit(0 if work() else 3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


@pytest.mark.parametrize(
    "what",
    [
        "lambda: True",
        "same",
        "lambda: same(Program.load(sys.argv[1]))",
        "lambda: len(program.time(3)) == 3",
        "lambda: forked(same) == 0",
        "lambda: same() and forked(same) == 0",
    ],
)
def test_what_a_child_does(what, parallel_pair):
    """Nothing, run, load, time, and the same in a child of its own: it ends, too."""
    script = f"{FORK}\nprint([forked({what}) for _ in range(3)], same(), flush=True)"
    assert run_script(script, parallel_pair[1].path) == "[0, 0, 0] True\n"


BUSY = """
started, end = threading.Event(), threading.Event()

def long_call():
    started.set()
    end.wait()

def refused():
    for use in (same, lambda: Program.load(sys.argv[1])):
        try:
            use()
        except ProgramError as error:
            if "forked while its parent ran one" not in str(error) or "spawn" not in str(error):
                return False
        else:
            return False
    return True

BEGIN
started.wait()
print(forked(refused), forked(lambda: forked(refused) == 0), flush=True)
end.set()
print(same(), flush=True)
"""


CALLS = {
    "a call": "threading.Thread(target=lanes.call, args=(1, long_call)).start()",
    "TVM is imported": """
import importlib
from unittest import mock
with mock.patch.multiple(lanes.backend, is_loaded=lambda: False, ffi=long_call):
    threading.Thread(target=lanes.call, args=(1, int)).start()
    started.wait()
""",
    "a program goes": """
unused = [Program.load(sys.argv[1])]
free_unused_memory, lanes.backend.free_unused_memory = lanes.backend.free_unused_memory, long_call
threading.Thread(target=unused.clear).start()
started.wait()
lanes.backend.free_unused_memory = free_unused_memory
""",
}


@pytest.mark.parametrize("other", CALLS)
def test_a_fork_while_another_thread_is_in_a_program(other, parallel_pair):
    """Its locks may be held for ever in the child, which says so at once; the parent goes on."""
    script = FORK + BUSY.replace("BEGIN", CALLS[other])
    assert run_script(script, parallel_pair[1].path) == "0 0\nTrue\n"


LAST_TURNS = """
import gc, os, sys, threading
from aqd_deploy.runtime import Program, lanes
from aqd_deploy.targets.cpu import available_threads

program = Program.load(sys.argv[1])
full = threading.Barrier(available_threads())

def call():
    global program
    full.wait()
    program = None

threads = [threading.Thread(target=lanes.call, args=(1, call)) for _ in range(available_threads())]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("gone")
"""


def test_a_program_goes_within_the_last_turn(parallel_pair):
    """Giving its memory back must not wait for a turn of its own."""
    assert run_script(LAST_TURNS, parallel_pair[0].path, timeout=60) == "gone\n"
