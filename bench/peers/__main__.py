"""`python -m bench.peers`: see compare.py."""

from bench.peers.compare import measure
from bench.report import report

if __name__ == "__main__":
    report(measure)
