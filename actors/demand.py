"""How much of something that is lent should be at hand: judged by how fast it goes."""

_WINDOW_S = 0.25
_KEPT_PER_S = 0.005
_LEAST_TAKES_PER_S = 8.0
_REST_S = 1.0


class Demand:
    """The use of one slice, and from it how much of it to have at hand.

    Used seldom, nothing: then every use asks. Used often, as much as a quarter of a second
    uses, and never less than a few of the largest uses. After a recall, nothing for a while.
    """

    __slots__ = (
        "_largest",
        "_measured_s",
        "_newest",
        "_resting_until_s",
        "_takes",
        "_takes_per_s",
        "_units",
        "_units_per_s",
    )

    def __init__(self, now_s: float) -> None:
        self._takes = self._units = self._largest = self._newest = 0
        self._takes_per_s = self._units_per_s = 0.0
        self._measured_s = now_s
        self._resting_until_s = 0.0

    def note(self, units: int) -> None:
        """Somebody wanted so much, whether it was at hand or not."""
        self._takes += 1
        self._units += units
        if units > self._newest:
            self._newest = units

    def rest(self, now_s: float) -> None:
        """Others need it more."""
        self._resting_until_s = now_s + _REST_S

    def measure(self, now_s: float) -> None:
        """Close a measurement: what was noted since the last one becomes part of the rate."""
        past_s = now_s - self._measured_s
        if past_s <= 0.0:
            return
        keep = _KEPT_PER_S**past_s
        self._takes_per_s = keep * self._takes_per_s + (1.0 - keep) * self._takes / past_s
        self._units_per_s = keep * self._units_per_s + (1.0 - keep) * self._units / past_s
        # One large use is not to be prepared for again and again.
        self._largest = max(int(keep * self._largest), self._newest)
        self._measured_s = now_s
        self._takes = self._units = self._newest = 0

    def idle(self) -> bool:
        """Whether nothing is left to remember of any use."""
        return self._takes_per_s < 0.1 and not self._takes

    def target(self, now_s: float) -> int:
        """How much to have at hand, by the last measurement."""
        if now_s < self._resting_until_s or self._takes_per_s < _LEAST_TAKES_PER_S:
            return 0
        return max(int(self._units_per_s * _WINDOW_S), 4 * self._largest)
