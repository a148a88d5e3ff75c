"""The work behind a fidelity report: chunks of questions, measured by several processes, each chunk a file.

A chunk that is on the disk is done, whoever computed it; a worker's error is the command's.

Every worker holds all engines, weights mapped once for all, and computes on one thread: as many workers as cores are
faster than one worker with all cores, and figures do not depend on the number of cores. A worker whose parent died
ends after its chunk; its file still counts.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from allrounder.calib.fidelity import Contender, Outcomes, joined, measure
from allrounder.calib.report.bundle import Sources, entries_of
from allrounder.calib.report.work_list import Chunk, Subject, WorkList
from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.options import EngineOptions
from allrounder.errors import CalibrationError
from allrounder.fidelity_report import ROUTER
from allrounder.progress import Progress, note, silent
from allrounder.prompts import Prompt
from allrounder.pruning import PruningConfig
from allrounder.runtime.engine import open_engines

__all__ = ["Assignment", "chunk_file", "read_outcomes", "run_chunks"]

# Of `Outcomes`, what a chunk's file has of each subject, and once for all of them.
_ROWS = ("kl", "agrees", "correct", "layer_use", "kept_tokens")
_SHARED = ("reference_correct", "tiles", "image_tokens")


@dataclass(frozen=True, slots=True)
class Assignment:
    """What every worker gets."""

    sources: Sources
    bundle: Path
    engines: tuple[PruningConfig, ...]  # `full` first
    work: WorkList
    prompts: tuple[Prompt, ...]
    calibration: tuple[Prompt, ...]  # for static layer orders
    folder: Path  # where the prompts file lies
    results: Path  # where chunk files go


def run_chunks(task: Assignment, chunks: Sequence[Chunk], jobs: int, progress: Progress = silent) -> int:
    """Computes the chunks that are not on the disk yet; returns how many questions that were.

    Most grid chunks come first. ``progress`` gets notes of how far the work is, and when it will about end.

    Raises:
        AllRounderError: A worker's own error, or `CalibrationError` where one died. Finished chunks stay.
    """
    task.results.mkdir(parents=True, exist_ok=True)
    left = [chunk for chunk in chunks if not chunk_file(task.results, chunk).is_file()]
    total, skipped = sum(map(_size, chunks)), sum(map(_size, chunks)) - sum(map(_size, left))
    if skipped:
        note(progress, f"{skipped} of {total} questions were measured before")
    clock = _Clock(task.work, left, total, progress)
    with _workers(task, min(jobs, len(left))) as workers:
        queue, idle = list(reversed(left)), list[Any](workers)
        busy: dict[Any, Chunk] = {}
        while queue or busy:
            while queue and idle:
                connection = idle.pop()
                busy[connection] = queue.pop()
                _send(connection, busy[connection], workers)
            for connection in wait(list(busy)):
                _receive(connection, workers)
                clock.done(busy.pop(connection))
                idle.append(connection)
    return total - skipped


def chunk_file(results: Path, chunk: Chunk) -> Path:
    """Returns the path of a chunk's outcomes."""
    return results / f"{chunk.first:06}-{chunk.end:06}.npz"


def read_outcomes(task: Assignment, chunks: Sequence[Chunk]) -> tuple[Outcomes, ...]:
    """Returns the outcomes of every subject of the work, over all its questions in their order.

    Raises:
        CalibrationError: A chunk is missing or damaged.
    """
    parts: list[list[Outcomes]] = [[] for _ in task.work.subjects]
    for chunk in chunks:
        for place, outcomes in _read(task, chunk).items():
            parts[place].append(outcomes)
    return tuple(map(joined, parts))


class _Clock:
    """Notes how much is done, and about how long the rest takes; runs are what takes time, not questions."""

    def __init__(self, work: WorkList, left: Sequence[Chunk], total: int, progress: Progress) -> None:
        self._work, self._total, self._progress = work, total, progress
        self._left = sum(map(self._runs, left))
        self._questions = total - sum(map(_size, left))
        self._done, self._started, self._told = 0, time.monotonic(), 0.0

    def done(self, chunk: Chunk) -> None:
        self._done += self._runs(chunk)
        self._questions += _size(chunk)
        now = time.monotonic()
        if now - self._told > 10 or self._done == self._left:
            self._told = now
            rest = (now - self._started) / self._done * (self._left - self._done)
            done = f"measured {self._questions} of {self._total} questions"
            note(self._progress, f"{done}, about {rest / 60:.0f} minutes left")

    def _runs(self, chunk: Chunk) -> int:
        return len(self._work.of(chunk.first)) * _size(chunk)


@contextmanager
def _workers(task: Assignment, count: int) -> Iterator[dict[Connection, BaseProcess]]:
    """Starts processes and gives each one's connection; none outlives the ``with`` statement."""
    context = multiprocessing.get_context("spawn")  # forked threads of torch and ONNX Runtime would hang
    workers: dict[Connection, BaseProcess] = {}
    started: list[BaseProcess] = []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, task), daemon=True)
            process.start()
            theirs.close()  # so that its end is seen here
            workers[ours] = process
            started.append(process)
        yield workers
    finally:
        for process in started:
            process.terminate()
            process.join()


def _send(connection: Any, chunk: Chunk, workers: dict[Connection, BaseProcess]) -> None:
    try:
        connection.send(chunk)
    except OSError:
        _receive(connection, workers)  # it said why, or died
        raise


def _receive(connection: Any, workers: dict[Connection, BaseProcess]) -> None:
    try:
        failure = connection.recv()
    except (EOFError, OSError) as error:
        workers[connection].join()
        raise CalibrationError(
            "a worker died",
            got=f"exit code {workers[connection].exitcode}",
            remedy="see that there is memory for all workers, or give fewer --jobs; finished work is kept",
        ) from error
    if failure is not None:
        raise failure


def _work(connection: Connection, task: Assignment) -> None:
    """A worker: chunks in, None or an error out, until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and ends its workers
    try:
        measurer = _Measurer(task)
        while (chunk := _asked(connection)) is not None:
            measurer.measure(chunk)
            connection.send(None)
    except BrokenPipeError:
        return  # the parent is dead; the chunk is written
    except Exception as error:  # whatever it is, the command ends with it  # noqa: BLE001
        error.add_note("in a worker:\n" + "".join(traceback.format_exception(error)))
        try:
            connection.send(error)
        except Exception:  # an exception that cannot be sent  # noqa: BLE001
            connection.send(CalibrationError("a worker failed", got=f"{type(error).__name__}: {error}"))


def _asked(connection: Connection) -> Chunk | None:
    """Returns the next chunk, or None where the parent is gone."""
    try:
        return connection.recv()
    except EOFError:
        return None


class _Measurer:
    """Engines and pruners of one worker, opened once."""

    def __init__(self, task: Assignment) -> None:
        import torch

        torch.set_num_threads(1)
        self._task = task
        bundle = open_bundle(task.bundle)
        options = EngineOptions(threads=1, weights="shared")
        engines = open_engines(bundle, entries_of(bundle, task.engines), options)
        self._engines = {(each.entry.version, each.entry.pruning.layer_policy): each for each in engines}
        self._scores: Any = None

    def measure(self, chunk: Chunk) -> None:
        """Measures a chunk and writes its file."""
        subjects = [self._task.work.subjects[place] for place in self._task.work.of(chunk.first)]
        contenders = [self._contender(subject) for subject in subjects]
        prompts = self._task.prompts[chunk.first : chunk.end]
        found = measure(contenders[0].engine, contenders, prompts)
        arrays: dict[str, Any] = {name: np.stack([getattr(each, name) for each in found]) for name in _ROWS}
        arrays |= {name: getattr(found[0], name) for name in _SHARED}
        path = chunk_file(self._task.results, chunk)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        with partial.open("wb") as file:
            np.savez_compressed(file, **arrays)
        partial.replace(path)

    def _contender(self, subject: Subject) -> Contender:
        engine = self._engines[subject.key]
        if subject.pruner == ROUTER:
            return Contender(engine)
        from allrounder.router.pruners import shown_by

        tokens, _, _ = subject.pruner.partition("+")
        return Contender(engine, self._scorer(subject.pruner), shown_by(tokens))

    def _scorer(self, pruner: str) -> Any:
        if self._scores is None:  # only the grid's chunks need the model in torch
            from allrounder.calib.report.scores import PrunerScores

            task = self._task
            self._scores = PrunerScores(task.sources, task.calibration, task.folder)
        return self._scores.scorer(pruner)


def _read(task: Assignment, chunk: Chunk) -> dict[int, Outcomes]:
    """Returns the outcomes in a chunk's file, by the subject's place."""
    path, places = chunk_file(task.results, chunk), task.work.of(chunk.first)
    prompts = task.prompts[chunk.first : chunk.end]
    try:
        # Opened here: NumPy leaves a damaged file open.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in (*_ROWS, *_SHARED)}
    except Exception as error:  # zip, header and array errors have no root but Exception
        raise _unreadable(path, error) from error
    if any(len(arrays[name]) != len(places) for name in _ROWS):
        raise _unreadable(path, f"not {len(places)} rows")
    return {
        place: Outcomes(
            **{name: arrays[name][row] for name in _ROWS},
            labelled=np.array([prompt.answer is not None for prompt in prompts]),
            **{name: arrays[name] for name in _SHARED},
            kinds=tuple(prompt.kind for prompt in prompts),
            images=tuple(str(prompt.image) for prompt in prompts),
        )
        for row, place in enumerate(places)
    }


def _unreadable(path: Path, got: object) -> CalibrationError:
    remedy = "delete this file and run again"
    return CalibrationError("measured outcomes cannot be read", where=path, got=got, remedy=remedy)


def _size(chunk: Chunk) -> int:
    return chunk.end - chunk.first
