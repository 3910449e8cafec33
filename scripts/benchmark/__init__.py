"""What a view costs, measured beside the links themselves, a copy, and other file systems that resolve links.

`scripts/bench` starts it; docs/benchmarks.md says what is measured and how to read it. Modules, in the order in which
they import each other: client (runs alone), dataset, contenders, results, rows, measure, picture, report, scale.
"""
