"""mmengine's optimiser wrapper and schedules, imported without what takes most of the time.

mmengine imports all of ``torch.distributed`` for an optimiser that reidx does not offer (ZeroRedundancyOptimizer), a second
of work before the first line of a config is judged. It does without where that cannot be imported.
"""

import sys

_UNUSED = "torch.distributed.optim"

_kept = sys.modules.get(_UNUSED)
if _kept is None:
    sys.modules[_UNUSED] = None  # type: ignore[assignment]  # its import fails
try:
    from mmengine.optim import OptimWrapper
    from mmengine.registry import PARAM_SCHEDULERS
finally:
    if _kept is None:
        del sys.modules[_UNUSED]

__all__ = ["PARAM_SCHEDULERS", "OptimWrapper"]
