"""The answers to mails in progress, each until its time is over: one timer for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from proxy.replies import Reply

#: What makes an answer when the time is over.
Late = Callable[[], Coroutine[None, None, Reply]]


class Answers:
    """The work on mails that clients wait for. All of it may take equally long."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Reply]] = set()
        self._waiting: dict[_Answer, None] = {}  # who came first is due first
        self._timer: asyncio.TimerHandle | None = None

    def begin(
        self, task: asyncio.Task[Reply], late: Late, until: float
    ) -> asyncio.Future[Reply]:
        """What `task` ends with, or from `until` (loop time) on what `late` makes of it. Whoever
        cancels the answer stops nothing.
        """
        answer = _Answer(task, self, late, until)
        self._tasks.add(task)
        self._waiting[answer] = None
        if self._timer is None:
            self._timer = answer.loop.call_at(until, self._ring)
        return answer.said

    async def drain(self) -> None:
        """Wait until all work has ended."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def ended(self, answer: _Answer, task: asyncio.Task[Reply]) -> None:
        """For `_Answer`: nothing of `task` is due any more."""
        self._tasks.discard(task)
        self._waiting.pop(answer, None)

    def instead(self, task: asyncio.Task[Reply], other: asyncio.Task[Reply]) -> None:
        """For `_Answer`: `other` answers for `task`, and both are waited for at the end."""
        task.add_done_callback(self._tasks.discard)
        self._tasks.add(other)

    def _ring(self) -> None:
        self._timer = None
        while self._waiting:
            answer = next(iter(self._waiting))
            if answer.until > answer.loop.time():
                self._timer = answer.loop.call_at(answer.until, self._ring)
                return
            del self._waiting[answer]
            answer.over()


class _Answer:
    """One answer, `said`.

    No part of it may hold another in a circle: the message's room is given back when it is gone.
    """

    __slots__ = ("_answers", "_late", "_task", "loop", "said", "until")

    def __init__(
        self, task: asyncio.Task[Reply], answers: Answers, late: Late, until: float
    ) -> None:
        self.loop = task.get_loop()
        self.said: asyncio.Future[Reply] = self.loop.create_future()
        self.until = until
        self._task = task
        self._answers = answers
        self._late = late
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Reply]) -> None:
        self._answers.ended(self, task)
        if self.said.done():
            return
        if task.cancelled():
            self.said.cancel()
        elif (error := task.exception()) is not None:
            self.said.set_exception(error)
        else:
            self.said.set_result(task.result())

    def over(self) -> None:
        """Its time is over."""
        task = self._task
        if task.done():
            return
        task.remove_done_callback(self._ended)
        other = self.loop.create_task(self._late())
        self._answers.instead(task, other)
        other.add_done_callback(self._ended)
