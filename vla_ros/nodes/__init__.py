"""The ROS 2 nodes: rclpy lives here and nowhere else."""
