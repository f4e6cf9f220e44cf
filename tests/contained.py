"""Reading in a process of its own, which may take only so much memory and time, and may crash."""

import multiprocessing
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path


def contained(task: Callable[[], list[str]], *, seconds: float = 60, memory: int = 2**29) -> list[str]:
    """What `task` returns in a forked process with `memory` more bytes than this one.

    `AssertionError` where it takes more, or crashes.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(task, theirs, memory))
    process.start()
    theirs.close()
    try:
        assert ours.poll(seconds), f"no answer within {seconds} s"
        answer: list[str] = ours.recv()
    except EOFError:
        process.join(5)
        raise AssertionError(f"the process ended with {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
    return answer


def outcome(task: Callable[[], object]) -> str:
    """How reading a foreign file ended: "" where it was read, the sentence where it was refused.

    `AssertionError` where it ended in any other way.
    """
    try:
        task()
        return ""
    except (ValueError, FileNotFoundError) as error:
        sentence = str(error)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}") from error
    assert sentence
    assert "\n" not in sentence, sentence
    assert len(sentence) < 2000, sentence
    return sentence


def _run(task: Callable[[], list[str]], answer: Connection, memory: int) -> None:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + memory, taken + memory))
    answer.send(task())
