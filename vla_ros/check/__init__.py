"""What ``vla_ros check`` makes of a live graph: facts in, findings out. No ROS."""
