"""Whether an api process is fit follows from whether its store answers, however many wait for it."""

import itertools

from chatflow.entrypoints.api import answers
from chatflow.ports.errors import QueryTimeout, StoreOverloaded, StoreUnavailable


class Reader:
    """Answers or fails as it is told, the last way for good."""

    def __init__(self, *outcomes: Exception | None) -> None:
        self._outcomes = itertools.chain(outcomes, itertools.repeat(outcomes[-1]))

    async def heads(self, room_ids):
        if (outcome := next(self._outcomes)) is not None:
            raise outcome
        return {}


FULL = StoreOverloaded("220 reads are running or waiting")


async def test_a_store_that_answers_is_up():
    assert await answers(Reader(None))


async def test_a_full_waiting_line_does_not_take_a_process_out_of_service():
    assert await answers(Reader(FULL, FULL, FULL, None))


async def test_a_waiting_line_that_stays_full_does():
    assert not await answers(Reader(FULL), patience_s=0.03)


async def test_a_store_that_fails_is_down_at_once():
    for failure in (StoreUnavailable("gone"), QueryTimeout("late")):
        assert not await answers(Reader(failure, None))
    assert not await answers(Reader(FULL, StoreUnavailable("gone")))
