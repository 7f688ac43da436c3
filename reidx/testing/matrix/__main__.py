"""``python -m reidx.testing.matrix [NAMESPACE]``: print the share of allowed pairs, and the reasons for the others."""

import sys

from reidx.testing.matrix import axes, combinations, pairs, refusals
from reidx.testing.matrix.report import report

if __name__ == "__main__":
    involving = sys.argv[1] if len(sys.argv) > 1 else None
    print(report(axes(), pairs(involving), refusals(involving), len(combinations(involving))))
