"""`python -m reference.serving --demo`: see `reference.serving.demo`."""

import sys

from reference.serving.demo import main

if __name__ == "__main__":
    sys.exit(main())
