"""The audit: is a robust accuracy to be believed?"""

from lit_robust.audit.command import main
from lit_robust.audit.credibility import Credibility
from lit_robust.audit.plan import Effort

__all__ = ["Credibility", "Effort", "main"]
