"""`python -m kernels.compile_report`: compile the shipped kernels without a GPU, and check them."""

import sys

from kernels.compile_report import main

if __name__ == "__main__":
    sys.exit(main())
