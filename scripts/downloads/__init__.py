"""Parts of scripts/download.py: the registry, fetching with resume, safe unpacking, putting things in their place."""
