"""The commands of ``footprints``: each parses, calls one public function, and prints a line."""
