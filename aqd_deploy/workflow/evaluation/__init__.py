"""Accuracy of the stages of a network over a data set."""
