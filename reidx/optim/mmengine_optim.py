"""mmengine's optimiser wrapper and schedules, without their slowest import.

mmengine imports all of ``torch.distributed.optim`` for an optimiser that reidx does not offer (ZeroRedundancyOptimizer). The
import takes about a second, which every check of a config would pay. mmengine tolerates its failure.
"""

import sys

_UNUSED = "torch.distributed.optim"

_kept = sys.modules.get(_UNUSED)
if _kept is None:
    sys.modules[_UNUSED] = None  # type: ignore[assignment]  # makes its import fail
try:
    from mmengine.optim import OptimWrapper
    from mmengine.optim import _ParamScheduler as ParamScheduler
finally:
    if _kept is None:
        del sys.modules[_UNUSED]

__all__ = ["OptimWrapper", "ParamScheduler"]
