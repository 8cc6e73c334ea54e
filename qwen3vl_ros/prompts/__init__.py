"""Prompts and answers: what is asked, in which words, and what the answer must look like. No ROS."""
