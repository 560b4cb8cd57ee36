"""The benchmark harness: our kernels next to their peers, on this machine.

`python -m benchmarks all` measures on a GPU, `python -m benchmarks cpu` on the CPU. Recorded runs
are kept in `results/`, with machine, date and versions; `LOG.md` says what was tried, and why it
was kept or dropped.
"""
