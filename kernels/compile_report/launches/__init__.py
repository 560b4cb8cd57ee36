"""Which launches are compiled: one module per entry point, each with a `compile_cases()`."""
