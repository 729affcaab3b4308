"""Worker processes end when they are told to, also in the middle of a call."""

from __future__ import annotations

import time

import pytest
from kills import Sandbox

pytest.importorskip("cloudpickle")
pytest.importorskip("psutil")


@pytest.fixture
def pool():
    from aqd_deploy.tuning.pool import WorkerPool

    pool = WorkerPool(2, 60.0)
    yield pool
    pool.shutdown()


def test_calls_are_answered(pool):
    futures = [pool.submit(divmod, 17, number) for number in (2, 3, 5)]
    assert [future.result() for future in futures] == [(8, 1), (5, 2), (3, 2)]
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 1, 0).result()


def test_shutting_down_does_not_wait_for_a_call(pool):
    """TVM's own way waits until the call returns."""
    pool.submit(divmod, 1, 1).result()
    future = pool.submit(time.sleep, 50)
    time.sleep(0.3)
    started = time.monotonic()
    pool.shutdown()
    assert time.monotonic() - started < 10
    with pytest.raises(ChildProcessError):
        future.result()


def test_shutting_down_before_a_worker_has_started(pool):
    """None is started then, to be waited for while it imports TVM."""
    futures = [pool.submit(divmod, 1, 1) for _ in range(4)]
    started = time.monotonic()
    pool.shutdown()
    assert time.monotonic() - started < 4
    assert all(future.cancelled() or future.exception() is not None for future in futures)


@pytest.mark.parametrize("error", [ValueError("write to closed file"), EOFError(), ZeroDivisionError()])
def test_a_call_whose_pipes_are_closed_under_it(error, monkeypatch):
    """However far it was."""
    from tvm.support.popen_pool import PopenWorker

    from aqd_deploy.tuning.pool import Worker

    worker = Worker()

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(PopenWorker, "send", fail)
    with pytest.raises(type(error)):
        worker.call(divmod, (1, 1), 1.0)
    worker.end()
    with pytest.raises(ChildProcessError, match="the worker was ended"):
        worker.call(divmod, (1, 1), 1.0)


def test_a_killed_process_takes_busy_workers_with_it(tmp_path):
    sandbox = Sandbox(tmp_path / "sandbox")
    code = (
        "import time\nfrom aqd_deploy.tuning.pool import WorkerPool\npool = WorkerPool(1, 100.0)\n"
        "pool.submit(divmod, 1, 1).result()\npool.submit(time.sleep, 100)\nprint('busy', flush=True)\n"
        "time.sleep(100)\n"
    )
    process = sandbox.start(["-c", code])
    assert process.stdout.readline() == "busy\n"
    assert len(sandbox.processes()) == 2
    process.kill()
    sandbox.wait_for(lambda: not sandbox.processes(), 2, "no process")
    process.communicate()
