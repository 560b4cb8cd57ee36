"""A stand-in for `torch.cuda` with its own clock: tests of the GPU's stopwatch need no GPU, nor
do tests of what is refused on another GPU.

The host enqueues work (`work(ms)`); the GPU does it in order, as soon as it was enqueued and what
went before is done. While a graph is captured, work is noted and not done.
"""

from contextlib import contextmanager
from types import SimpleNamespace


class FakeCuda:
    """Enough of `torch.cuda` for `benchmarks.timing`, and for asking what the GPU can do."""

    def __init__(self, launch_ms: float = 0.0, capability: tuple[int, int] = (9, 0)) -> None:
        self.capability, self.asked = capability, 0
        self.host = self.gpu = 0.0
        self.launch_ms = launch_ms
        self.capturing = None
        self.waits = 0
        cuda = self

        class Event:
            def __init__(self, enable_timing=False) -> None:
                self.at = None

            def record(self) -> None:
                cuda.gpu = self.at = max(cuda.gpu, cuda.host)

            def query(self) -> bool:
                return self.at <= cuda.host

            def elapsed_time(self, other) -> float:
                return other.at - self.at

        class CUDAGraph:
            def __init__(self) -> None:
                self.work = []

            def replay(self) -> None:
                for ms in self.work:
                    cuda.work(ms, launch=False)

        self.Event, self.CUDAGraph = Event, CUDAGraph

    def work(self, ms: float, launch: bool = True) -> None:
        if self.capturing is not None:
            self.capturing.work.append(ms)
            return
        self.host += self.launch_ms if launch else 0.0
        self.gpu = max(self.gpu, self.host) + ms

    def synchronize(self) -> None:
        if self.capturing is not None:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.waits += 1
        self.host = max(self.host, self.gpu)

    @contextmanager
    def graph(self, graph):
        self.capturing = graph
        try:
            yield
        finally:
            self.capturing = None

    def _sleep(self, cycles: int) -> None:
        self.work(cycles / 2e6, launch=False)

    def is_available(self) -> bool:
        return True

    def empty_cache(self) -> None:
        pass

    def current_device(self) -> int:
        return 0

    def get_device_properties(self, device: int) -> SimpleNamespace:
        return SimpleNamespace(L2_cache_size=100 * 2**20)

    def get_device_capability(self, device: object = None) -> tuple[int, int]:
        self.asked += 1
        return self.capability
