"""Looking at a scene: camera paths today; knows cameras and nothing of models."""
