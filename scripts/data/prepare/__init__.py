"""Original archives → split files: what the commands scripts/prepare_*.py are made of."""
