"""nerfstudio and this project: its runs are read here, and these methods train there.

`runs.py` and what it reads with (`settings.py`, `nerfacto.py`, `nerfacto_weights.py`) need nothing of nerfstudio's. The
other modules are what nerfstudio loads, and they alone import it.
"""
