"""`/api/v1`, loaded when somebody may ask it: FastAPI takes 6 MB and a tenth of a start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from starlette.types import Receive, Scope, Send

from policy.pack import Packs
from proxy.config import Settings
from proxy.keys import Keys
from proxy.store.model import Store

if TYPE_CHECKING:
    from proxy.web.api import Api


class LaterApi:
    """The API: at once where the configuration has a token, else with its first request.

    `store` is set once it is open.
    """

    def __init__(
        self, settings: Settings, keys: Keys, packs: Packs, *, clock: Callable[[], datetime]
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._packs = packs
        self._clock = clock
        self._turn = asyncio.Lock()
        self._api: Api | None = self._made() if settings.api_tokens else None
        self.store: Store | None = None

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        api = self._api or await self._loaded()
        api.store = self.store
        await api.app(scope, receive, send)

    async def _loaded(self) -> Api:
        async with self._turn:
            if self._api is None:
                self._api = await asyncio.to_thread(self._made)
            return self._api

    def _made(self) -> Api:
        from proxy.web.api import Api

        return Api(self._settings, self._keys, self._packs, clock=self._clock)
