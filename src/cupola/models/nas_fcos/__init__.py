"""NAS-FCOS (arXiv 1906.04423): FCOS with a neck and a head that were searched for."""

from cupola.models.nas_fcos.head import NASFCOS, NASFCOSHead

__all__ = ["NASFCOS", "NASFCOSHead"]
