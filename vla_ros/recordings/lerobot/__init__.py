"""LeRobot data sets (format v3) on disk, read as what a robot saw and was told, and written."""
