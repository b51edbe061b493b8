"""Chips to instances: Mask R-CNN with FPN and PointRend on a timm trunk."""
