"""Every figure in the course: one call, `figures.merge_rulers(...)`, returns one Figure.

One module per lesson; each lists its figures in `__all__` and they are all gathered here. A
function takes plain numbers or tensors and returns a `Figure` in the course's style
(`course.style`). It draws; it never computes what the lesson teaches.
"""

# ruff: noqa: F403
from course.figures.attention import *
from course.figures.benchmark import *
from course.figures.beyond_one_gpu import *
from course.figures.decode_phase import *
from course.figures.flash_attention import *
from course.figures.flash_attention_triton import *
from course.figures.flash_decoding import *
from course.figures.flash_decoding_triton import *
from course.figures.num_splits import *
from course.figures.online_softmax import *
from course.figures.paged_kv_cache import *
from course.figures.precision import *
from course.figures.quantized_kv_cache import *
from course.figures.serving import *
from course.figures.speculative_decoding import *
from course.figures.start_here import *
from course.figures.triton_primer import *
from course.figures.why_decode_starves import *
