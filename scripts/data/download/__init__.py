"""Parts of scripts/download.py: the registry, fetching with resume, safe unpacking, installing in the data folder."""
