"""Labels to targets: scenes and vector labels in, training chips out, nothing prepared on disk."""
