"""ROS messages to and from plain numpy values, duck-typed: nothing here imports ROS."""
