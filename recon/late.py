"""What a GPU has computed, read a little later: whoever reads it at once waits for it, and it then waits for him."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BEHIND = 2  # steps that are not waited for

Told = Tensor | NDArray[np.float64]
Learn = Callable[[int, NDArray[np.float64], float], None]


class _Arriving:
    """A copy of a tensor in the host's memory, which is there some time after it was asked for."""

    def __init__(self, tensor: Tensor) -> None:
        self._copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._copy.copy_(tensor, non_blocking=True)
        self._done = torch.cuda.Event()
        self._done.record(torch.cuda.current_stream(tensor.device))

    def read(self) -> NDArray[np.float64]:
        self._done.synchronize()
        return self._copy.double().numpy()


class Late:
    """Hands on what steps tell of photos: on a CPU at once, on a GPU `BEHIND` steps later, in order either way."""

    def __init__(self, learn: Learn) -> None:
        self._learn = learn
        self._waiting: deque[tuple[int, _Arriving, float]] = deque()

    def tell(self, photo: int, told: Told, progress: float) -> None:
        if isinstance(told, np.ndarray):
            self._learn(photo, told, progress)
            return
        if told.device.type == "cpu":
            self._learn(photo, told.double().numpy(), progress)
            return
        self._waiting.append((photo, _Arriving(told.detach()), progress))
        self._hand_on(BEHIND)

    def settle(self) -> None:
        """Hand on all that was told: to be called before what was learned is saved or used for good."""
        self._hand_on(0)

    def _hand_on(self, left: int) -> None:
        while len(self._waiting) > left:
            photo, arriving, progress = self._waiting.popleft()
            self._learn(photo, arriving.read(), progress)
