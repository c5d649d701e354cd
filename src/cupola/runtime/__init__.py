"""Input -> prediction: predictors, and how a built model is executed."""

from cupola.runtime.load import load_predictor
from cupola.runtime.predictor import Chunk, Predictor, StreamEngine, TensorSpec

# The public way in. It is set here, since load_predictor makes what predictor.py declares.
Predictor.load = staticmethod(load_predictor)

__all__ = ["Chunk", "Predictor", "StreamEngine", "TensorSpec"]
