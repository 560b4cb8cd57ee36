# `make` alone lists the targets. PYTHON: the one that .venv was made with, else the first that fits.
PYTHON ?= $(shell for p in .venv/bin/python python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c "import sys; assert (3, 11) <= sys.version_info < (3, 15); print(sys._base_executable)" \
	2>/dev/null && exit; done; command -v python3)
BOOTSTRAP = $(or $(PYTHON),$(error Python is missing: install Python 3.11, 3.12, 3.13 or 3.14)) course/bootstrap.py
RUN = @$(BOOTSTRAP) run

.DEFAULT_GOAL := help
.PHONY: help lab test test-all model check exercises notebooks portable browser bench report gpu versions mutants format clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1 /p' Makefile | while read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done

lab: ## set up .venv and work/ (your copies of the notebooks), then open JupyterLab on the first lesson
	@$(BOOTSTRAP) lab

test: ## set up .venv if needed, then run every test, notebook and check
	@$(BOOTSTRAP) test

test-all: ## run every test, also the larger versions that `make test` leaves out
	$(RUN) python -m pytest -q -n 2 --dist loadfile -m "not browser" tests

model: ## fetch the 135M-parameter model that some lessons can use (93 MB, once)
	$(RUN) python -m course.model

check: ## lint modules and notebooks, check their format; exercises in step with solutions
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) python -m course.notebooks check

exercises: ## generate exercises/ from solutions/; answers found there are kept
	$(RUN) python -m course.notebooks generate

notebooks: ## execute every lesson and solution and store the outputs
	$(RUN) python -m course.notebooks run

portable: ## run the notebooks again, as a CPU without vector units and with one thread would
	@ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=1 $(BOOTSTRAP) run python -m pytest -q -n 2 --dist loadfile --nbval notebooks solutions

browser: ## move every widget in a real JupyterLab, in headless Chromium
	$(RUN) python -m pytest -q -m browser tests/browser

bench: ## measure flash_decode on this CPU against PyTorch's own attention
	$(RUN) python -m benchmarks cpu

report: ## measure on this machine and write report/report.html, to hand in (lesson 17)
	$(RUN) python -m benchmarks report

gpu: ## run the tests with compiled kernels, then measure on this machine's GPU
	$(RUN) python -m course.environment need-gpu
	$(RUN) python -m pytest -q tests
	$(RUN) python -m benchmarks all

versions: ## test and compile the kernels under every Triton that is allowed; downloads each
	$(RUN) python tests/versions.py

mutants: ## spoil the right answer of every exercise in all small ways: does its check notice?
	$(RUN) python tests/mutants.py

format: ## format modules and notebooks, and fix what ruff can fix
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

clean: ## remove .venv, Jupyter's private files and all caches; work/ and your progress stay
	rm -rf .venv .jupyter .pytest_cache .ruff_cache .hypothesis build *.egg-info setup.log
	find . -path ./work -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Kept: work/ (your notebooks), .progress.json (what you have solved), report/, models/."
