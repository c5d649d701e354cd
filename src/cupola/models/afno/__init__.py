"""Neural operators for weather and PDEs: AFNO (FourCastNet), PrecipNet, AFNO classifier, FNO."""

from cupola.models.afno.classifier import AFNOClassifier
from cupola.models.afno.filter import AFNO1D, AFNO2D
from cupola.models.afno.fno import FNO
from cupola.models.afno.layers import Block, PatchEmbed
from cupola.models.afno.mlp import Mlp
from cupola.models.afno.modes import RULES, Modes
from cupola.models.afno.network import AFNONet, AFNOSettings
from cupola.models.afno.neuraloperator import NeuralOperatorFNO
from cupola.models.afno.operator import FieldOperator
from cupola.models.afno.precipitation import PrecipNet

__all__ = [
    "AFNO1D",
    "AFNO2D",
    "FNO",
    "RULES",
    "AFNOClassifier",
    "AFNONet",
    "AFNOSettings",
    "Block",
    "FieldOperator",
    "Mlp",
    "Modes",
    "NeuralOperatorFNO",
    "PatchEmbed",
    "PrecipNet",
]
