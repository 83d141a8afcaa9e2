"""The commands of `python -m zoo`: one file each, or one for those that belong together, exporting `add`."""
