"""One budget lent to many workers: never passed, whatever they do and whoever dies."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axolotl_ual.errors import LimitError
from axolotl_ual.preprocess.engines import leases
from axolotl_ual.preprocess.engines.leases import Lease, LeasedBudget, Treasury


def test_a_worker_is_lent_its_share() -> None:
    treasury = Treasury(10.0)
    # One worker, requests of 0.01: room for 64 of them.
    assert treasury.lease(1, 0, 0, 0, 0.01).granted == pytest.approx(0.64)
    # Requests of 1: of the 9.36 that are left, a share of 1 / (4 * 2).
    assert treasury.lease(2, 0, 0, 0, 1.0).granted == pytest.approx(9.36 / 8)
    # The first has spent 0.5, holds 0.1 for what is in flight, and gives 0.04 back.
    treasury.lease(1, 0.5, 0, 0.1, 0)
    assert treasury.left == pytest.approx(10 - 0.6 - 9.36 / 8)
    # It dies: what it held may have been spent.
    treasury.close(1)
    told = treasury.lease(2, 0, 0, 0, 0)
    assert (told.spent, told.lost) == (0.5, 0.1)
    assert treasury.left == pytest.approx(9.4)


def test_the_last_of_it_is_for_one_request() -> None:
    treasury = Treasury(1.0)
    assert treasury.lease(1, 0, 0, 0, 0.9).granted == 0.9
    told = treasury.lease(2, 0, 0, 0, 0.2)
    assert told == Lease(0.0, 0.0, 0.0, True)
    # The first paid less than it might have: there is room.
    treasury.lease(1, 0.3, 0, 0, 0)
    assert treasury.lease(2, 0, 0, 0, 0.2).granted == 0.2


async def spend(treasury: Treasury, limit: float, workers: int, seed: int) -> tuple[float, int]:
    """Workers spend until they are stopped; USD spent and number of those that were stopped."""
    rng = random.Random(seed)
    spent = 0.0

    def lender(number: int) -> Callable[..., asyncio.Future[Lease]]:
        def lease(*of: float) -> asyncio.Future[Lease]:
            answer = asyncio.get_running_loop().create_future()
            told = treasury.lease(number, *of)
            asyncio.get_running_loop().call_later(
                0.0, lambda: answer.done() or answer.set_result(told)
            )
            return answer

        return lease

    async def request(budget: LeasedBudget) -> None:
        nonlocal spent
        while True:
            most = rng.uniform(0.01, 0.1)
            await budget.reserve(most)
            await asyncio.sleep(0)
            cost = most * rng.random()
            spent += cost
            assert spent <= limit + 1e-9
            budget.settle(most, cost)

    budgets = [LeasedBudget(limit, lender(number)) for number in range(workers)]
    jobs = [request(budget) for budget in budgets for _ in range(3)]
    ended = await asyncio.gather(*jobs, return_exceptions=True)
    return spent, sum(isinstance(error, LimitError) for error in ended)


@given(st.integers(1, 5), st.floats(0.2, 3.0), st.integers(0, 2**16))
def test_workers_never_spend_more(workers: int, limit: float, seed: int) -> None:
    treasury = Treasury(limit)
    with patch.object(leases, "_PAUSE", 0.001):
        spent, stopped = asyncio.run(spend(treasury, limit, workers, seed))
    assert stopped == 3 * workers, "every request ends, and none for another reason"
    assert treasury.spent == pytest.approx(spent)
    # Nothing is held back: the dearest request, of 0.1, is all that can be missing.
    assert limit - 0.1 - 1e-9 <= spent <= limit + 1e-9


def test_without_a_limit_spending_is_told() -> None:
    async def work() -> float:
        treasury = Treasury(None)

        async def lease(*of: float) -> Lease:
            return treasury.lease(1, *of)

        told: list[asyncio.Task[Lease]] = []

        def ask(*of: float) -> asyncio.Task[Lease]:
            told.append(asyncio.ensure_future(lease(*of)))
            return told[-1]

        budget = LeasedBudget(None, ask)
        await budget.reserve(5.0)
        budget.settle(5.0, 2.0)
        budget.give_back()
        await asyncio.gather(*told)
        return treasury.spent

    assert asyncio.run(work()) == 2.0
