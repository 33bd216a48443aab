"""The camera and dataset layer: captures in every format become a `Scene`. It knows nothing of training."""
