"""The MMCA page, a section a file."""
