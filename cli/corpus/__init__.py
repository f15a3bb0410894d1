"""`codelm corpus`: source code → clean, licensed, deduplicated rows."""
