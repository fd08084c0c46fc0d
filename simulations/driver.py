"""The open-loop driver: sends every intent at its time, whether or not others came back.

A closed loop, which waits for an answer before it sends the next request, stops measuring just
when a server stalls ("coordinated omission", Gil Tene). Here the clock decides when a request is
due, and its latency counts from that moment. What the driver itself cannot send, because its
slots are all taken, is recorded as unsent; it is never sent late and called on time.
"""

import asyncio
from collections.abc import Callable, Iterable

import aiohttp
import orjson

from simulations.client import Gateway
from simulations.records import Record
from simulations.replies import read_reply
from simulations.workload import Intent


class Clock:
    """Seconds since the start of a run, on the event loop's monotonic clock.

    delay_s: how far in the future the start is.
    """

    def __init__(self, delay_s: float = 0.0) -> None:
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time() + delay_s

    def now_s(self) -> float:
        """Seconds since the start; negative before it."""
        return self._loop.time() - self._start

    async def until(self, at_s: float) -> None:
        """Returns at that time; at once when it has passed."""
        await asyncio.sleep(max(0.0, at_s - self.now_s()))


async def drive(
    gateway: Gateway,
    intents: Iterable[Intent],
    clock: Clock,
    max_in_flight: int = 500,
    timeout_s: float = 60.0,
    on_record: Callable[[Record], None] = lambda record: None,
) -> list[Record]:
    """Sends intents at their times and returns one record each, in the intents' order.

    intents: in ascending order of `at_s`
    max_in_flight: slots; an intent that finds none free is recorded as unsent
    timeout_s: bound of one request, from its send
    on_record: told of each record as it is made
    Cancelling it cancels every request that is under way.
    """
    records: dict[int, Record] = {}

    async def send(number: int, intent: Intent) -> None:
        records[number] = await _send(gateway, intent, clock, timeout_s)
        on_record(records[number])

    async with asyncio.TaskGroup() as requests:
        in_flight: set[asyncio.Task[None]] = set()
        for number, intent in enumerate(intents):
            await clock.until(intent.at_s)
            if len(in_flight) >= max_in_flight:
                records[number] = Record(intent, "unsent", "no_slot_free", sent_s=clock.now_s())
                on_record(records[number])
                continue
            task = requests.create_task(send(number, intent))
            in_flight.add(task)
            task.add_done_callback(in_flight.discard)
    return [records[number] for number in sorted(records)]


async def _send(gateway: Gateway, intent: Intent, clock: Clock, timeout_s: float) -> Record:
    sent_s = clock.now_s()
    headers = {"content-type": "application/json", "x-raygate-priority": intent.priority}
    try:
        async with gateway.session.post(
            gateway.base_url + intent.path,
            data=orjson.dumps(intent.body()),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        ) as reply:
            return await read_reply(reply, intent, sent_s, clock.now_s)
    except TimeoutError:
        reason = "client_timeout"
    except (aiohttp.ClientError, ValueError) as error:
        reason = type(error).__name__
    latency_s = clock.now_s() - intent.at_s
    return Record(intent, "failed", reason, sent_s=sent_s, latency_s=latency_s)
