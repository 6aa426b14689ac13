"""What becomes of the copies of one mail; results of copies that end together are one commit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from proxy.copies import Outgoing
from proxy.delivery.upstream import Given
from proxy.errors import StoreRefused
from proxy.mail import Mail
from proxy.store.model import Outcome, Result
from proxy.turn import Turn


class Results:
    """What was accepted goes into `turn` once it is durable, and into `live`, by copy key.

    `record` is commit C2: durable when it returns. It may raise `StoreRefused`.
    """

    __slots__ = ("_record", "_refused", "_task", "_unwritten", "live", "mail", "turn")

    def __init__(
        self,
        mail: Mail,
        turn: Turn,
        live: Mapping[str, asyncio.Future[Result]],
        record: Callable[[Mail, Sequence[Outcome]], Awaitable[None]],
    ) -> None:
        self.mail = mail
        self.turn = turn
        self.live = live
        self._record = record
        self._unwritten: list[tuple[Outgoing, Sequence[Given], list[Outcome]]] = []
        self._task: asyncio.Task[None] | None = None
        self._refused: StoreRefused | None = None

    def end(self, send: Outgoing, given: Sequence[Given]) -> None:
        """What was accepted of this copy is durable."""
        self.turn.written(send)
        for case, one in zip(send.cases, given, strict=True):
            future = self.live[case.copy_key]
            if one.result is Result.ACCEPTED and not future.done():
                future.set_result(one.result)

    def take(self, send: Outgoing, given: Sequence[Given], accepted: list[Outcome]) -> None:
        """Record what was accepted of this copy, with what ends meanwhile; `written` waits."""
        if not accepted:
            return self.end(send, given)
        self._unwritten.append((send, given, accepted))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write())
        return None

    async def written(self) -> None:
        """Wait until all is recorded. Raises `StoreRefused`."""
        if self._task is not None:
            await self._task
        if self._refused is not None:
            raise self._refused

    async def _write(self) -> None:
        while self._unwritten:
            taken, self._unwritten = self._unwritten, []
            try:
                await self._record(self.mail, [one for *_, accepted in taken for one in accepted])
            except StoreRefused as error:
                if len(taken) == 1:
                    self._refused = error
                    continue
            else:
                for send, given, _ in taken:
                    self.end(send, given)
                continue
            for send, given, accepted in taken:  # one of them is to blame
                try:
                    await self._record(self.mail, accepted)
                except StoreRefused as error:
                    self._refused = error
                else:
                    self.end(send, given)
