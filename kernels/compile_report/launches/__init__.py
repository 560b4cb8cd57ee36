"""Which launches are compiled: one module per door, each with a `compile_cases()`."""
