"""The same function for many tasks, in several processes of the operating system."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any, TypeVar

from seal_weaver.errors import SampleError

__all__ = ["end_if_cancelled", "in_order"]

Task = TypeVar("Task")
Result = TypeVar("Result")


_cancelled: Any = None  # in a worker: the event that its parent sets once no result is wanted any more


def _start_worker(cancelled: Any) -> None:
    """Let the parent process alone decide when a worker ends."""
    global _cancelled
    _cancelled = cancelled
    # A terminal sends Ctrl-C to the workers too; the parent ends them in good order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # It terminates them where one has died, as Ctrl-C makes it while it starts.
    signal.signal(signal.SIGTERM, _terminate)
    # A parent that is killed cannot do that, and its workers would wait for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()


class _Terminated(BaseException):
    """Raised within a task, so that it can remove what it has not finished."""


_at_work = False


def _terminate(*_: Any) -> None:
    if _at_work:
        raise _Terminated
    os._exit(1)


def _run(function: Callable[[Task], Result], task: Task) -> Result:
    """The function in a worker, which ends if it is terminated; the executor's loop would go on."""
    global _at_work
    _at_work = True
    try:
        return function(task)
    except _Terminated:
        os._exit(1)
    finally:
        _at_work = False


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def end_if_cancelled() -> None:
    """To be called by long tasks now and then: raises KeyboardInterrupt in a worker whose result is not wanted."""
    if _cancelled is not None and _cancelled.is_set():
        raise KeyboardInterrupt


def in_order(function: Callable[[Task], Result], tasks: Sequence[Task], jobs: int) -> Iterator[Result]:
    """The result of each task, in the order of the tasks, whoever is done first.

    With one job everything happens in this process. Otherwise function, tasks and results must be picklable,
    and a script needs the guard ``if __name__ == "__main__"`` around the call. What a task raises is raised here;
    tasks that have not begun are then dropped.

    Raises
    ------
    SampleError: a worker process died
    """
    jobs = min(jobs, len(tasks))
    if jobs <= 1:
        yield from map(function, tasks)
        return
    # A forked copy of a process with threads, such as torch's, may hang: start the workers afresh.
    context = multiprocessing.get_context("spawn")
    cancelled = context.Event()
    executor = ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker, initargs=(cancelled,))
    try:
        results = executor.map(partial(_run, function), tasks)
        # The executor looks for the deaths of those workers that it knew when it last woke up, which is before the
        # last one starts: without another task that one's death goes unseen until a result comes.
        executor.submit(int)
        yield from results
    except BrokenProcessPool as error:
        raise SampleError(
            "a worker process died (out of memory?); try jobs=1. A script that uses several needs "
            "the guard: if __name__ == '__main__'"
        ) from error
    finally:
        cancelled.set()
        executor.shutdown(wait=True, cancel_futures=True)
