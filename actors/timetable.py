"""Who is due when: a heap that forgets what was cancelled."""

import heapq


class Timetable:
    """Ids with a time each; of equal times the lower rank is due first.

    Setting and cancelling cost O(log n) amortised; memory stays proportional to the
    ids that are set.
    """

    def __init__(self) -> None:
        self._live: dict[str, int] = {}
        self._heap: list[tuple[int, int, str]] = []

    def set(self, id: str, at_ns: int, rank: int = 0) -> None:
        """Make `id` due at `at_ns`, in place of any time it had."""
        self._live[id] = at_ns
        # Cancelled times stay in the heap until they surface; many of them are swept out.
        if len(self._heap) > 2 * len(self._live) + 64:
            self._heap = [time for time in self._heap if self._live.get(time[2]) == time[0]]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (at_ns, rank, id))

    def cancel(self, id: str) -> None:
        """Make `id` never due; a no-op when it is not set."""
        self._live.pop(id, None)

    def next_ns(self) -> int | None:
        """The earliest time that is set, or None."""
        heap, live = self._heap, self._live
        while heap and live.get(heap[0][2]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def due(self, now: int) -> str | None:
        """Take out the earliest id whose time has come, or None."""
        at_ns = self.next_ns()
        if at_ns is None or at_ns > now:
            return None
        id = heapq.heappop(self._heap)[2]
        del self._live[id]
        return id
