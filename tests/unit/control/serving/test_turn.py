"""Whose turn it is: callers in a round, each caller's requests in their order."""

import asyncio

from mafunzo.control.serving.turn import Turns


def served(*waiting: str, gone: tuple[int, ...] = ()) -> list[str]:
    """Return the order in which requests have their turn that wait behind another; `gone` are those that leave before."""
    order: list[str] = []

    async def one(turns: Turns, caller: str, number: int) -> None:
        async with turns.of(caller):
            order.append(f"{caller}{number}")

    async def work() -> None:
        turns = Turns()
        await turns.acquire("other")
        tasks = [asyncio.create_task(one(turns, caller, number)) for number, caller in enumerate(waiting)]
        await asyncio.sleep(0)
        for number in gone:
            tasks[number].cancel()
        await asyncio.sleep(0)
        turns.release()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.wait_for(turns.acquire("last"), 60)
        assert not turns._waiting

    asyncio.run(work())
    return order


def test_one_callers_requests_have_their_turn_in_their_order() -> None:
    assert served("a", "a", "a") == ["a0", "a1", "a2"]


def test_a_callers_one_request_waits_for_one_of_anothers_many() -> None:
    assert served("a", "a", "a", "a", "b") == ["a0", "b4", "a1", "a2", "a3"]


def test_three_callers_take_turns() -> None:
    assert served("a", "a", "b", "b", "c") == ["a0", "b2", "c4", "a1", "b3"]


def test_one_that_leaves_gives_its_turn_to_the_next() -> None:
    assert served("a", "b", "a", gone=(0, 1)) == ["a2"]
    assert served("a", "b", gone=(0, 1)) == []


def test_one_that_leaves_at_the_moment_of_its_turn_gives_it_on() -> None:
    async def work() -> None:
        turns = Turns()
        await turns.acquire("other")
        waiting = asyncio.create_task(turns.acquire("a"))
        await asyncio.sleep(0)
        turns.release()
        waiting.cancel()
        await asyncio.wait([waiting])
        await asyncio.wait_for(turns.acquire("b"), 60)

    asyncio.run(work())
