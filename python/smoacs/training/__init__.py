"""Train an ALIGNN on one's own data: ``smoacs train CONFIG.yaml``."""

from smoacs.training.run import TrainingResult, train

__all__ = ["TrainingResult", "train"]
