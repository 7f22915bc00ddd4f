"""Pieces of work on the event loop: one in each pass, in the order of coming, whoever goes away."""

import asyncio

from forecaster.serving.intake.one_by_one import OneByOne


def test_one_piece_in_each_pass() -> None:
    async def scenario() -> None:
        pieces, passes, seen = OneByOne(), 0, []

        async def count() -> None:
            nonlocal passes
            while True:
                passes += 1
                await asyncio.sleep(0)

        async def piece(name: int) -> None:
            await pieces.turn()
            seen.append((name, passes))

        counting = asyncio.create_task(count())
        every = [asyncio.create_task(piece(k)) for k in range(20)]
        await asyncio.sleep(0)
        for gone in (0, 7, 19):
            every[gone].cancel()
        await asyncio.gather(*every, return_exceptions=True)
        kept = [k for k in range(20) if k not in (0, 7, 19)]
        assert [name for name, _ in seen] == kept
        assert len({number for _, number in seen}) == len(kept)
        await pieces.turn()  # what comes later finds it as it was
        counting.cancel()

    asyncio.run(scenario())
