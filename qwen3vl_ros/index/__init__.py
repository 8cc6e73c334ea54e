"""An index of what was seen when: captions and named things with their times, in one SQLite file. No ROS imports."""
