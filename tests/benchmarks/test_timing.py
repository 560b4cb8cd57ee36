"""Stopwatch and contest, on a made-up GPU: what is timed, how often, and with what inputs."""

import pytest
import torch
from fake_cuda import FakeCuda

from benchmarks import contest, timing
from benchmarks.contest import Entrant, compete
from benchmarks.timing import GpuEvents, HostClock, capture, replay_in_turns, take_turns


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    monkeypatch.setattr(torch, "cuda", fake)
    return fake


def fine(_):
    return ""


def entrant(name, work, sets=3, check=fine):
    return Entrant(name, [lambda i=i: work(i) for i in range(sets)], check)


def test_everyone_has_a_turn_in_every_round_and_the_order_shifts(cuda):
    log = []
    steps = {name: (lambda turn, n=name: log.append((n, turn))) for name in "abc"}
    times = take_turns(steps, GpuEvents(), rounds=8, warm_up=1, warm_up_ms=0)
    assert [turn for _, turn in log] == list(range(27))
    rounds = ["".join(n for n, _ in log[i : i + 3]) for i in range(0, 27, 3)]
    assert all(sorted(r) == list("abc") for r in rounds) and len(set(rounds)) == 3
    assert {name: len(t) for name, t in times.items()} == dict.fromkeys("abc", 8)


def test_events_tell_what_the_gpu_took_and_not_the_host(cuda):
    watch = GpuEvents()
    watch.mark("long", lambda: cuda.work(5.0))
    watch.mark("short", lambda: cuda.work(0.5))
    assert watch.read() == {"long": 5.0, "short": 0.5}
    assert watch.read() == {} and cuda.waits == 2


def test_long_calls_get_fewer_rounds_but_not_too_few(cuda):
    for ms, rounds in ((1.0, timing.ROUNDS), (100.0, 10), (3000.0, timing.LEAST_ROUNDS)):
        times = take_turns({"x": lambda _, ms=ms: cuda.work(ms)}, GpuEvents())
        assert times["x"] == [pytest.approx(ms)] * rounds


def test_warming_up_takes_its_time(cuda):
    calls = []
    take_turns({"x": lambda _: (calls.append(1), cuda.work(1.0))}, GpuEvents(), rounds=8)
    assert len(calls) == timing.WARM_UP_MS + 8
    calls.clear()
    take_turns({"x": lambda _: (calls.append(1), cuda.work(20.0))}, GpuEvents(), rounds=8)
    assert len(calls) == timing.WARM_UP_ROUNDS + 8


def test_a_graph_makes_every_call_and_its_time_is_that_of_one(cuda):
    done = []
    calls = [lambda ms=ms: (done.append(ms), cuda.work(ms))[0] or ms for ms in (1.0, 2.0, 3.0)]
    captured = capture(calls, ms=2.0)
    assert captured.calls == 3 and captured.graph.work == [1.0, 2.0, 3.0]
    assert captured.first == 1.0
    assert done[:3] == [1.0, 2.0, 3.0]  # once outside the capture, to compile
    assert replay_in_turns({"x": captured}, GpuEvents())["x"][0] == pytest.approx(2.0)


@pytest.mark.parametrize(("ms", "calls"), [(0.1, 20), (0.5, 4), (5.0, 2), (0.001, 40), (0.0, 40)])
def test_short_calls_are_made_more_often_in_a_graph(cuda, ms, calls):
    assert capture([lambda: cuda.work(ms)] * 2, ms).calls == calls


def test_sets_of_inputs_fill_the_l2_several_times_over(cuda):
    assert timing.cold_bytes() == 400 * 2**20
    for size in (1000, 2**20, 2**26, 2**30):
        count = timing.number_of_sets(size, 2**28)
        assert count >= 2 and (count - 1) * size >= min(2**28, size)
    assert timing.number_of_sets(timing.ALONE_BYTES, 2**28) == 1


def test_eager_and_graph_are_told_apart(cuda):
    cuda.launch_ms = 0.03  # the host is slower than the kernel
    row, cannot = compete([entrant("ours", lambda _: cuda.work(0.01))], on_gpu=True)
    assert cannot == {}
    assert row["ours_ms"] == pytest.approx(0.01) and row["ours_eager_ms"] == pytest.approx(0.04)
    assert row["ours_ms_quartiles"] == [row["ours_ms"]] * 3


def test_calls_walk_through_all_sets(cuda):
    seen = []

    def work(i):
        seen.append(i)
        cuda.work(1.0)

    compete([entrant("ours", work, sets=4), entrant("b", lambda _: cuda.work(1.0))], on_gpu=True)
    assert set(seen) == {0, 1, 2, 3}


def test_a_wrong_answer_is_not_timed(cuda):
    liar = entrant("liar", lambda _: cuda.work(0.1), check=lambda _: "max error 3")
    row, cannot = compete([liar, entrant("ours", lambda _: cuda.work(1.0))], on_gpu=True)
    assert cannot == {"liar": "wrong: max error 3"}
    assert not any(key.startswith("liar") for key in row) and "ours_ms" in row


def test_the_answer_of_the_graph_is_checked_too(cuda):
    right = iter([""] + ["stale"] * 9)
    row, cannot = compete(
        [entrant("ours", lambda _: cuda.work(1.0), check=lambda _: next(right))], on_gpu=True
    )
    assert cannot == {"ours": "wrong: stale"} and row == {}


def test_who_fails_does_not_stop_the_others(cuda):
    def fails(_):
        raise NotImplementedError("no kernel\nfor this shape")

    row, cannot = compete(
        [entrant("x", fails), entrant("y", lambda _: cuda.work(1.0))], on_gpu=True
    )
    assert cannot == {"x": "NotImplementedError: no kernel"} and "y_ms" in row


def test_what_cannot_be_captured_keeps_its_eager_time(cuda):
    def looks(_):
        cuda.work(1.0)
        cuda.synchronize()

    row, cannot = compete([entrant("x", looks)], on_gpu=True)
    assert list(cannot) == ["x graph"] and "capturing" in cannot["x graph"]
    assert row["x_eager_ms"] == 1.0 and "x_ms" not in row


def test_without_graphs_the_eager_time_is_the_time(cuda):
    one = Entrant("x", [lambda: cuda.work(2.0)], fine, graph=False)
    row, _ = compete([one], on_gpu=True)
    assert row == {"x_ms": 2.0, "x_ms_quartiles": [2.0, 2.0, 2.0]}


def test_interpreted_the_host_times_two_rounds():
    calls = []
    row, cannot = compete([entrant("x", calls.append, sets=2)], on_gpu=False)
    assert cannot == {} and row["x_ms"] > 0 and calls == [0, 0, 1, 0]
    watch = HostClock()
    watch.mark("x", lambda: None)
    assert watch.read()["x"] >= 0 and watch.read() == {}


def test_a_broken_gpu_ends_the_run_and_says_who_broke_it(cuda, monkeypatch):
    def broken():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(cuda, "synchronize", broken)
    with pytest.raises(SystemExit, match=r"peer .*illegal memory access.*--resume"):
        contest.still_alive("peer")


def test_out_of_memory_is_called_that():
    assert contest.reason(torch.OutOfMemoryError("CUDA out of memory. Tried …")) == "out of memory"
    assert contest.reason(ValueError()) == "ValueError: "


def test_host_time_is_taken_while_the_gpu_is_busy(cuda, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock) * 1e-3)
    samples = timing.host_microseconds(lambda: cuda.work(0.001))
    assert len(samples) == 9 and samples[0] == pytest.approx(10.0)  # 1 ms over 100 calls
    cuda.launch_ms = 10.0
    with pytest.raises(RuntimeError, match="ran out of work"):
        timing.host_microseconds(lambda: cuda.work(0.001))


def test_quartiles_of_one_sample():
    assert timing.median_and_quartiles("x", [2.0]) == {"x": 2.0, "x_quartiles": [2.0, 2.0, 2.0]}
