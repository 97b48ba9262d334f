"""What several ROS nodes share."""
