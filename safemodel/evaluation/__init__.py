"""Measure defences: what they leave of a hidden payload, and material to try them on.

`payload_recovery` compares weights before and after a defence. The laboratory that
hides payloads in the known ways, `safemodel.evaluation.stego`, is a module of its own,
which is imported by name.
"""

from safemodel.evaluation._recovery import PayloadRecovery, payload_recovery

__all__ = ["PayloadRecovery", "payload_recovery"]
