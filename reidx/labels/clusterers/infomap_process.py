"""The process in which InfoMap runs; it imports neither torch nor scipy, so that it starts in a tenth of the time."""

from __future__ import annotations

import io
import sys

import numpy as np

from reidx.machine.lifetimes import end_with


def main() -> None:
    """Read links from stdin and write communities to stdout; the process ends with its parent, the first argument."""
    end_with(int(sys.argv[1]))
    from infomap import Infomap

    given = np.load(io.BytesIO(sys.stdin.buffer.read()))
    seed, trials = int(given["seed"]) + 1, int(given["trials"])  # infomap's own seeds begin at 1
    walk = Infomap(silent=True, directed=True, two_level=True, seed=seed, num_trials=trials)
    walk.add_links([(int(a), int(b), w) for a, b, w in given["links"].tolist()])
    result = walk.run()
    # Older versions return nothing: there the walk itself holds the communities.
    communities = dict(walk.get_modules() if result is None else result.modules())
    np.save(sys.stdout.buffer, np.array([list(communities), list(communities.values())], np.int64))


if __name__ == "__main__":
    main()
