"""LoRA adapters on disk: checked, signed, archived."""
