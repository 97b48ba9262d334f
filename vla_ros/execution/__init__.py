"""Runs one policy on one device: requests in, actions out. Knows no robot and no ROS."""
