"""`python -m reference.serving --demo`: see `reference.serving.demo`."""

from reference.serving.demo import main

raise SystemExit(main())
