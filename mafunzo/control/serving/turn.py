"""A lock whose waiters take turns by caller: one caller's many requests don't keep another's one waiting behind them all."""

import asyncio
from collections import deque
from types import TracebackType


class Turns:
    """One holder at a time. Callers are served in a round (round robin), each caller's own requests in their order."""

    def __init__(self) -> None:
        self._is_held = False
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def of(self, caller: str) -> "_Turn":
        """Return the context in which a request of a caller has its turn."""
        return _Turn(self, caller)

    async def acquire(self, caller: str) -> None:
        """Wait for the turn of a request; `release` must follow."""
        if not self._is_held:
            self._is_held = True
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():  # it was its turn already: the next one's
                self.release()
            elif turn in (waiting := self._waiting.get(caller, deque())):
                waiting.remove(turn)
                self._forget_if_empty(caller)
            raise

    def release(self) -> None:
        """Give the turn to the next caller, in the order of the round."""
        while self._waiting:
            caller = next(iter(self._waiting))
            waiting = self._waiting.pop(caller)
            turn = waiting.popleft()
            if waiting:
                self._waiting[caller] = waiting  # at the end of the round
            if not turn.done():
                turn.set_result(None)
                return
        self._is_held = False

    def _forget_if_empty(self, caller: str) -> None:
        if not self._waiting[caller]:
            del self._waiting[caller]


class _Turn:
    def __init__(self, turns: Turns, caller: str) -> None:
        self._turns, self._caller = turns, caller

    async def __aenter__(self) -> None:
        await self._turns.acquire(self._caller)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turns.release()
