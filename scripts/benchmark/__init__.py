"""What a view costs, measured beside the links themselves, a copy, and other file systems that resolve links.

`scripts/bench` starts it; docs/benchmarks.md says what is measured and how to read it. The modules, each importing
only from those before it: client (which runs alone), dataset, interrupts, contenders, rows, results, measure, picture,
report, scale.
"""
