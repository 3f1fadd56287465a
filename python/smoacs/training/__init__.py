"""Train a network on one's own data: ``smoacs train CONFIG.yaml``."""

from smoacs.training.run import TrainingResult, add_reliability, train

__all__ = ["TrainingResult", "add_reliability", "train"]
