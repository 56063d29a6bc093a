"""Data sets: fetched (download), turned into split files (prepare), or drawn (toybirds)."""
