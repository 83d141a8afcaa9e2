"""The twenty tasks of HEAR, read from folders in its on-disk format."""
