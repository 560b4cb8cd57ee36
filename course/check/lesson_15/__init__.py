"""Exercises of lesson 15, one file each: what must hold, and what people get wrong."""

from course.check.lesson_15.capacity import CAPACITY
from course.check.lesson_15.schedule import SCHEDULE
from course.check.lesson_15.summary import SUMMARY

EXERCISES = (SCHEDULE, SUMMARY, CAPACITY)
