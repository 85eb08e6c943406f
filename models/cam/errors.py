"""What can be wrong with a request for a map."""

from __future__ import annotations

from util.errors import UserError


class ExplainError(UserError, ValueError):
    """A layer, target, method or network that cannot be explained as asked; the message says what to change."""
