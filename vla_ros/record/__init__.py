"""Recording the topics of a running robot, and playing a bag into live nodes."""
