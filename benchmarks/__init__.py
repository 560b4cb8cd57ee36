"""The measuring harness: ours beside its peers, on this machine.

`python -m benchmarks all` measures on a GPU, `python -m benchmarks cpu` on the CPU. What was
measured once is kept under `results/`, with machine, date and versions; what was tried, and why it
was kept or dropped, in `LOG.md`.
"""
