"""What ``vla_ros check`` makes of recordings: bags and LeRobot data sets, read as training reads them. No ROS."""
