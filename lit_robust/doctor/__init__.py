"""Mistakes that are known to spoil results, looked for before a run: `diagnose(Subject(...))` in a script too."""

from lit_robust.doctor.checks import CHECKS, Check
from lit_robust.doctor.diagnose import diagnose
from lit_robust.doctor.diagnosis import Diagnosis
from lit_robust.doctor.subject import Subject

__all__ = ["CHECKS", "Check", "Diagnosis", "Subject", "diagnose"]
