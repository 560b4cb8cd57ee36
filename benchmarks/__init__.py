"""The measuring harness: ours beside its peers, on this machine.

`python -m benchmarks cpu` measures on the CPU, `python -m benchmarks decode` on a GPU. What was
measured once is kept under `results/`, with machine, date and versions.
"""
