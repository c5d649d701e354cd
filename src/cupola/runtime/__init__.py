"""Input -> prediction: predictors, and how a built model is executed."""

from cupola.runtime.predictor import Chunk, Predictor, StreamEngine, TensorSpec

__all__ = ["Chunk", "Predictor", "StreamEngine", "TensorSpec"]
