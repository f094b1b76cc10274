"""Model folders: saving, loading, the hub, the card, and the official checkpoints."""
