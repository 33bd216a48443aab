"""nerfstudio and this project: its runs are read here, and these methods train there.

`runs.py` needs nothing of nerfstudio's. The other modules are what nerfstudio loads, and they alone import it.
"""
