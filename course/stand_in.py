"""A made-up device to try benchmarks on: a clock, a queue and a cache, but no arithmetic.

On a real device you never know how long a call *should* take. Here you do, because you set it:

    device = StandIn(call_s=1e-3)          a call on random data that is not in the cache: 1 ms
    data = device.inputs()                 a set of inputs, somewhere in the device's memory
    device.launch(data)                    puts a call into the queue, and returns at once
    device.synchronize()                   waits until the queue is empty
    device.clock()                         the host's clock, seconds

Nothing waits and nothing is computed: time is a number that these calls move forward, so a
benchmark of a thousand calls is over in a moment and gives the same result every time.
"""

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True)
class Inputs:
    """A set of inputs: which one, and what is in it, "random" or "zeros"."""

    number: int
    data: str


class StandIn:
    """A device with a queue, a cache and a clock, all made up; times are in seconds.

    call_s: for a call on random data that is not in the cache. launch_s: for the host to put it
    into the queue. set_bytes: size of a set of inputs. cache_bytes: what fits in the cache. warm,
    zeros: the fraction of call_s that is left if the inputs are in the cache, or are zeros.
    compile_s: the extra time of the first launch. rise_s: until the device has worked for this
    long, its clock is low, and a call takes `slow` times as long. spread: calls vary by up to this
    fraction in either direction. outlier_every: every n-th call takes 8 times as long (0: none).

    log: what it was asked to do, in order: "inputs 0", "launch 0", "synchronize", "clock".
    Raises ValueError for negative times or sizes.
    """

    def __init__(
        self,
        *,
        call_s: float = 1e-3,
        launch_s: float = 2e-6,
        set_bytes: int = 2**20,
        cache_bytes: int = 4 * 2**20,
        warm: float = 0.4,
        zeros: float = 0.7,
        compile_s: float = 0.0,
        rise_s: float = 0.0,
        slow: float = 3.0,
        spread: float = 0.0,
        outlier_every: int = 0,
    ) -> None:
        given = {name: value for name, value in locals().items() if name != "self"}
        for name, value in given.items():
            if value < 0:
                raise ValueError(f"{name} must not be negative; got {value}")
        self.call_s, self.launch_s, self.compile_s = call_s, launch_s, compile_s
        self.set_bytes, self.cache_bytes = set_bytes, cache_bytes
        self.warm, self.zeros, self.rise_s, self.slow = warm, zeros, rise_s, slow
        self.spread, self.outlier_every = spread, outlier_every
        self.log: list[str] = []
        self._host = self._free = self._worked = 0.0  # now; when the queue is empty; busy so far
        self._made = self._calls = 0
        self._cached: OrderedDict[int, None] = OrderedDict()  # the least recently used first

    def clock(self) -> float:
        """Return the time on the host's clock, seconds."""
        self.log.append("clock")
        return self._host

    def inputs(self, data: str = "random") -> Inputs:
        """Return a new set of inputs, which is in the cache because it was just written.

        Raises ValueError unless data is "random" or "zeros".
        """
        if data not in ("random", "zeros"):
            raise ValueError(f'data must be "random" or "zeros"; got {data!r}')
        made = Inputs(self._made, data)
        self._made += 1
        self.log.append(f"inputs {made.number}")
        self._touch(made.number)
        return made

    def launch(self, inputs: Inputs) -> None:
        """Put a call on these inputs into the queue; return before it is done."""
        self.log.append(f"launch {inputs.number}")
        self._host += self.launch_s + (0.0 if self._calls else self.compile_s)
        seconds = self._seconds(inputs)
        self._free = max(self._free, self._host) + seconds
        self._worked += seconds
        self._calls += 1

    def synchronize(self) -> None:
        """Wait until all calls in the queue are done."""
        self.log.append("synchronize")
        self._host = max(self._host, self._free)

    def _seconds(self, inputs: Inputs) -> float:
        """Return how long the next call takes on the device."""
        share = self.warm if self._touch(inputs.number) else 1.0
        share *= self.zeros if inputs.data == "zeros" else 1.0
        share *= self.slow if self._worked < self.rise_s else 1.0
        if self.outlier_every and self._calls % self.outlier_every == self.outlier_every - 1:
            return self.call_s * share * 8
        # multiples of the golden ratio: even a few calls in a row are spread evenly over the range
        even = self._calls * 0.618033988749895 % 1
        return self.call_s * share * (1 + self.spread * (2 * even - 1))

    def _touch(self, number: int) -> bool:
        """Say whether a set was in the cache; put it there and evict the least recently used."""
        found = number in self._cached
        self._cached[number] = None
        self._cached.move_to_end(number)
        while len(self._cached) * self.set_bytes > self.cache_bytes:
            self._cached.popitem(last=False)
        return found
