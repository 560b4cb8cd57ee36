"""Tools for the notebooks: execute and store, lint, generate exercises, count; learners' copies.

python -m course.notebooks run|lint|generate|check|census [FILES]
"""
