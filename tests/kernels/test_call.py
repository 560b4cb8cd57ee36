"""kernels.call: launches from several threads."""

from concurrent.futures import ThreadPoolExecutor

import torch

from kernels.flash_decoding import flash_decode
from kernels.merge import merge_states
from kernels.primer import matmul
from kernels.runtime import device
from kernels.softmax import softmax
from reference.attention import attention
from reference.online_softmax import merge_states as merged


def test_threads_get_their_own_answers():
    """Different kernels at once: the interpreter keeps a launch's state in one place."""
    q, k, v = (torch.randn(2, n, h, 16, device=device()) for n, h in ((1, 4), (40, 2), (40, 2)))
    x = torch.randn(6, 40, device=device())
    o, lse = torch.randn(3, 8, 16, device=device()), torch.randn(3, 8, device=device())
    truth = attention(q.double(), k.double(), v.double())
    jobs = {
        "decode": (lambda: flash_decode(q, k, v, num_splits=2), truth),
        "softmax": (lambda: softmax(x), x.double().softmax(1)),
        "matmul": (lambda: matmul(x, x.T.contiguous()), x.double() @ x.double().T),
        "merge": (lambda: merge_states(o, lse)[0], merged(o.double(), lse.double())[0]),
    }
    with ThreadPoolExecutor(4) as threads:
        rounds = [(name, threads.submit(job)) for _ in range(4) for name, (job, _) in jobs.items()]
        for name, answer in rounds:
            wanted = jobs[name][1].float()
            torch.testing.assert_close(answer.result(60), wanted, rtol=1e-5, atol=1e-5, msg=name)
