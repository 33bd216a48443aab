"""Looking at a scene in a browser; knows cameras, and of a scene no more than that it can be drawn."""
