"""Loss terms that any contrastive model can take on: `TERMS.get(name)` finds `models/terms/<name>_term.py`."""

from models.terms.base import TERMS, ExtraTerm

__all__ = ["TERMS", "ExtraTerm"]
