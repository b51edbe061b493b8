"""Instances to a layer: traced, merged across seams, placed on the ground, written."""
