"""Programs that are used from many threads at once, and by threads that come and go."""

from __future__ import annotations

import gc
import os
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from small_programs import assert_equal, run_script

from aqd_deploy.errors import ShapeError
from aqd_deploy.runtime import Program, lanes
from aqd_deploy.targets.cpu import available_threads


@pytest.mark.parametrize("index", [0, 1])
def test_one_program_in_eight_threads(index, parallel_pair):
    compiled = parallel_pair[index]
    program = Program.load(compiled.path)
    inputs = [program.random_inputs(seed) for seed in range(40)]
    alone = [program.run(each) for each in inputs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for got, expected in zip(pool.map(program.run, inputs), alone, strict=True):
                assert_equal(got, expected)
    assert_equal(program.run(compiled.inputs), compiled.outputs)


def test_methods_of_one_program_side_by_side(parallel_pair):
    program, compiled = Program.load(parallel_pair[1].path), parallel_pair[1]
    with ThreadPoolExecutor(6) as pool:
        times = [pool.submit(program.time, 20, 0) for _ in range(2)]
        profiles = [pool.submit(program.profile, 5) for _ in range(2)]
        runs = [pool.submit(program.run, compiled.inputs) for _ in range(40)]
        for run in runs:
            assert_equal(run.result(), compiled.outputs)
        assert all(len(each.result()) == 20 for each in times)
        layers = len(program.manifest["program"]["layers"])
        assert all(len(each.result()) == layers for each in profiles)


class Served(BaseHTTPRequestHandler):
    """POST /NAME with the bytes of an image: those of all outputs."""

    programs: dict[str, Program]

    def do_POST(self):
        program = self.programs[self.path[1:]]
        (info,) = program.inputs
        image = np.frombuffer(self.rfile.read(int(self.headers["Content-Length"])), info.dtype)
        outputs = program.run({info.name: image.reshape(info.shape)})
        answer = b"".join(value.tobytes() for value in outputs.values())
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def test_a_web_server_with_several_programs(parallel_pair, small_pair):
    """A thread a request, as http.server makes them; each answer is that of a single thread."""
    programs = {each.path.stem: Program.load(each.path) for each in (*parallel_pair, *small_pair)}
    requests = []
    for seed in range(15):
        for name, program in programs.items():
            inputs = program.random_inputs(seed)
            expected = b"".join(value.tobytes() for value in program.run(inputs).values())
            requests.append((name, next(iter(inputs.values())).tobytes(), expected))
    Served.programs = programs
    with ThreadingHTTPServer(("127.0.0.1", 0), Served) as server:
        threading.Thread(target=server.serve_forever).start()
        address = f"http://127.0.0.1:{server.server_port}"

        def ask(name, image):
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"{address}/{name}", image, timeout=60) as answer:
                return answer.read()

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda each: ask(*each[:2]), requests))
        server.shutdown()
    assert [got == expected for got, (_, _, expected) in zip(answers, requests, strict=True)] == [True] * 60


def test_a_program_of_a_thread_that_ended(parallel_pair):
    compiled, loaded = parallel_pair[1], []
    loader = threading.Thread(target=lambda: loaded.append(Program.load(compiled.path)))
    loader.start()
    loader.join()
    assert_equal(loaded[0].run(compiled.inputs), compiled.outputs)


@pytest.mark.parametrize("index", [0, 1])
def test_threads_that_come_and_go_leave_no_threads(index, parallel_pair):
    program, compiled = Program.load(parallel_pair[index].path), parallel_pair[index]
    program.run(compiled.inputs)
    before = len(os.listdir("/proc/self/task"))
    results = []
    for _ in range(30):
        thread = threading.Thread(target=lambda: results.append(program.run(compiled.inputs)))
        thread.start()
        thread.join()
    # The system lists a thread a little longer than it can be joined; one that is left stays for ever.
    deadline = time.monotonic() + 60
    while (left := len(os.listdir("/proc/self/task"))) > before + 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left <= before + 1
    for got in results:
        assert_equal(got, compiled.outputs)


@pytest.mark.parametrize("index", [0, 1])
def test_many_short_lived_threads_at_once(index, parallel_pair):
    """As a server makes them, a thread a request: 200 in all, 20 at a time, some of which load a program."""
    program, compiled = Program.load(parallel_pair[index].path), parallel_pair[index]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(program.run, [compiled.inputs] * 8))
    before = len(os.listdir("/proc/self/task"))
    results = []

    def answer(number):
        used = Program.load(compiled.path) if number % 5 == 0 else program
        results.append(used.run(compiled.inputs))

    for _ in range(10):
        threads = [threading.Thread(target=answer, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Room for lanes that the first calls did not need, with their workers.
        assert len(os.listdir("/proc/self/task")) <= before + available_threads()
    for got in results:
        assert_equal(got, compiled.outputs)


@pytest.mark.parametrize("threads", [1, available_threads()])
def test_no_more_calls_at_once_than_the_cpu_has_room_for(threads):
    running, most = [], []

    def work():
        running.append(None)
        most.append(len(running))
        threading.Event().wait(0.01)
        running.pop()

    with ThreadPoolExecutor(12) as pool:
        for call in [pool.submit(lanes.call, threads, work) for _ in range(36)]:
            call.result()
    assert max(most) <= available_threads() // threads


def test_a_program_that_is_dropped_while_it_runs(parallel_pair):
    compiled = parallel_pair[1]
    for _ in range(10):
        program = Program.load(compiled.path)
        with ThreadPoolExecutor(4) as pool:
            runs = [pool.submit(program.run, compiled.inputs) for _ in range(12)]
            del program
            gc.collect()
            for run in runs:
                assert_equal(run.result(), compiled.outputs)


def test_errors_between_the_runs(parallel_pair):
    program, compiled = Program.load(parallel_pair[1].path), parallel_pair[1]

    def use(index):
        if index % 3 == 0:
            with pytest.raises(ShapeError, match="image is missing"):
                program.run({})
        if index % 3 == 1:
            # Not a number of arguments that the code takes: an error out of a virtual machine.
            with pytest.raises(Exception, match="arguments"):
                lanes.call(program.threads, program._called, [])
        return program.run(compiled.inputs)

    with ThreadPoolExecutor(6) as pool:
        for got in pool.map(use, range(60)):
            assert_equal(got, compiled.outputs)


ALONE = """
import os, sys
from aqd_deploy.runtime import Program

count = lambda: len(os.listdir("/proc/self/task"))
Program.load(sys.argv[1])
program, before = Program.load(sys.argv[1], threads=1), count()
program.run(program.random_inputs())
program.time(2)
print(count() - before)
"""


def test_a_call_of_one_thread_starts_none(parallel_pair):
    assert run_script(ALONE, parallel_pair[1].path) == "0\n"


NESTED = """
from aqd_deploy.runtime import backend, lanes

limit = lambda: backend._threading("14MaxConcurrencyEv")()
seen = lanes.call(1, lambda: [limit(), lanes.call(1, limit), limit()])
print(seen)
"""


def test_a_call_within_a_call_of_one_thread_leaves_it_one():
    assert run_script(NESTED) == "[1, 1, 1]\n"


SIGNALS = """
import signal, sys
import numpy as np
from aqd_deploy.runtime import Program

program = Program.load(sys.argv[1], threads=int(sys.argv[2]))
inputs = [program.random_inputs(seed) for seed in range(2)]
expected = [program.run(each) for each in inputs]

def same(seed):
    got = program.run(inputs[seed])
    return all(np.array_equal(got[name], expected[seed][name]) for name in got)

handled = []
signal.signal(signal.SIGALRM, lambda *_: handled.append(same(1)))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
results = []
while len(handled) < 500:
    results.append(same(0))
signal.setitimer(signal.ITIMER_REAL, 0)
print(all(results), all(handled))
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_the_handler_of_a_signal_that_comes_during_a_call(threads, parallel_pair):
    assert run_script(SIGNALS, parallel_pair[0].path, threads) == "True True\n"


ENDS = """
import atexit, sys, threading, time
from aqd_deploy.runtime import Program

program = Program.load(sys.argv[1])
inputs = program.random_inputs()

def use(count):
    while count:
        program.run(inputs)
        count -= 1

if sys.argv[2] == "daemons":
    for _ in range(3):
        threading.Thread(target=use, args=(-1,), daemon=True).start()
    time.sleep(0.05)
elif sys.argv[2] == "threads":
    threading.Thread(target=use, args=(200,)).start()
elif sys.argv[2] == "atexit":
    atexit.register(use, 2)
    use(2)
print("end of main", flush=True)
"""


@pytest.mark.parametrize("what", ["daemons", "threads", "atexit"])
@pytest.mark.parametrize("index", [0, 1])
def test_the_end_of_the_interpreter(index, what, parallel_pair):
    for _ in range(3):
        assert run_script(ENDS, parallel_pair[index].path, what) == "end of main\n"
