"""Run Vision-Language-Action policies on a robot under ROS 2."""
