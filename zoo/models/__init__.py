"""The model families: one file each, exporting one constant `FAMILY`."""
