"""Exercises of lesson 07: the load of the SMs, the time of a step, the bandwidth it achieved."""

from course.check.lesson_07_bandwidth import BANDWIDTH
from course.check.lesson_07_latency import LATENCY
from course.check.lesson_07_load import LOAD

EXERCISES = (LOAD, LATENCY, BANDWIDTH)
