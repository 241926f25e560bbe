"""What a user should know about the uncertainties that smoothing was made of.

Two things make the smoothing of a row say less than it seems to:

- Uncertainties that hardly differ give every row nearly the same smoothing, which is ordinary label
  smoothing. Their standard deviation tells; of a uniform distribution over [0, 1] it is 0.29.
- `mapping: rank` spreads rows evenly over [0, 1] whatever their scores are: the mean of u is 1/2,
  so that eps = 2 * alpha * u (while that is below the cap), as wide for scores that all but agree
  as for scores that do not.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

_LEAST_DEVIATION: Final = 0.02


def remarks(
    uncertainty: npt.NDArray[np.floating[Any]], mapping: str | None, scale: float
) -> list[str]:
    """Sentences for the closing lines and the manifest; none where nothing stands out.

    Args:
        uncertainty: (N,) in [0, 1]; NaN where there is none.
        mapping: how scores became uncertainties; None where they need no mapping.
        scale: slope of the smoothing in the uncertainty.
    """
    known = uncertainty[~np.isnan(uncertainty)].astype(np.float64)
    found = []
    if known.size > 1 and known.std() < _LEAST_DEVIATION:
        found.append(
            f"warning: the uncertainty is nearly the same for all rows (mean {known.mean():.3f}, "
            f"standard deviation {known.std():.4f}), so this is close to one smoothing for all: "
            "look at some rows, and at the estimator's settings"
        )
    if mapping == "rank":
        found.append(
            f"mapping: rank: uncertainty is a row's place in the order of scores, so smoothing is "
            f"{scale:.3g} times that place however far scores are apart; `minmax` and `clipped` "
            "keep distances"
        )
    return found
