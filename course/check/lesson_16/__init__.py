"""Exercises of lesson 16, one file each: what must hold, and what people get wrong."""

from course.check.lesson_16.bytes_sent import BYTES_SENT
from course.check.lesson_16.merge_across import MERGE_ACROSS
from course.check.lesson_16.prefix_that_pays import PREFIX_THAT_PAYS
from course.check.lesson_16.seen_of_shard import SEEN_OF_SHARD

EXERCISES = (MERGE_ACROSS, BYTES_SENT, SEEN_OF_SHARD, PREFIX_THAT_PAYS)
