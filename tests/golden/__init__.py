"""Fixture trees and the whole answers they give.

NAME.tree is what `tail -n +1 FILES` prints of cgroupfs, procfs and sysfs (see tests/trees.py),
NAME.args holds flags, NAME.then what changed ten seconds later, where the second answer is meant.
NAME.prom and NAME.om are the answers; `python -m tests.golden` renews them.
"""
