"""Tests: unit (fast), integration (one small training with real parts), campaign (long proofs)."""
