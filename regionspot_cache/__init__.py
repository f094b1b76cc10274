"""Open-vocabulary region recognition from cached SAM tokens and CLIP maps."""
