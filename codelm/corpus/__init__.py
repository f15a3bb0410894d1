"""Source code → clean, licensed, deduplicated rows, split so that validation shares no package with training."""
