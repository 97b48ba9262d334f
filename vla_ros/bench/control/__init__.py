"""``vla_ros bench --control``: what the nodes promise, measured on live ones."""
