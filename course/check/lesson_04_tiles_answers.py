"""Answers to exercise 4.1: a right one, written differently, and the wrong ones people give."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from reference.traffic import Traffic

State = tuple[Tensor, Tensor, Tensor]  # m, l, acc


def _start(rows: int, D: int, wrong: str) -> State:
    m = 0.0 if wrong == "m starts at 0" else -math.inf
    return torch.full((rows,), m), torch.zeros(rows), torch.zeros(rows, D)


def _number_of_tiles(length: int, block: int, dropped: bool) -> int:
    return length // block if dropped else math.ceil(length / block)


def with_fault(wrong: str) -> Callable:
    """The tile loop with one fault in it."""

    def answer(q, k, v, block_m, block_n, traffic):
        if wrong == "nothing reported":
            traffic = Traffic()
        Lq, Lk, D = len(q), len(k), q.shape[1]
        o, lse = torch.empty(Lq, D), torch.empty(Lq)
        scale = 1.0 if wrong == "no scale" else D**-0.5
        both = wrong == "both tails dropped"
        key_tiles = _number_of_tiles(Lk, block_n, both or wrong == "tail dropped")
        state = _start(block_m, D, wrong)
        for i in range(_number_of_tiles(Lq, block_m, both or wrong == "rows never written")):
            rows = slice(i * block_m, (i + 1) * block_m)
            q_i = q[rows] if wrong == "q reloaded" else traffic.load("q", q[rows])
            if wrong != "state set up once":
                state = _start(len(q_i), D, wrong)
            for j in range(key_tiles):
                if wrong == "q reloaded":
                    traffic.load("q", q_i)
                cols = slice(j * block_n, (j + 1) * block_n)
                k_j, v_j = traffic.load("k", k[cols]), traffic.load("v", v[cols])
                state = _step(state, scale * q_i @ k_j.T, v_j, wrong)
                if wrong == "stored in every step":
                    traffic.store("o", o[rows]), traffic.store("lse", lse[rows])
            o[rows], lse[rows] = _end(state, wrong)
            if wrong not in ("nothing stored", "stored in every step"):
                traffic.store("o", o[rows]), traffic.store("lse", lse[rows])
        return o, lse

    return answer


def _step(state: State, s: Tensor, v_j: Tensor, wrong: str) -> State:
    m, l, acc = state
    top = s.max() if wrong == "one maximum for all" else s.amax(-1)
    m_new = torch.zeros_like(m) if wrong == "no maximum" else torch.maximum(m, top)
    c = torch.exp(m_new - m if wrong == "correction upside down" else m - m_new)
    p = torch.exp(s - (top if wrong == "p from the tile's maximum" else m_new)[:, None])
    l = (1.0 if wrong == "nothing rescaled" else c) * l + p.sum(-1)
    keep = 1.0 if wrong in ("nothing rescaled", "acc not rescaled") else c[:, None]
    acc = keep * acc + p @ v_j
    if wrong == "divided in every tile":
        acc = acc / l[:, None]
    return m if wrong == "m never renewed" else m_new, l, acc


def _end(state: State, wrong: str) -> tuple[Tensor, Tensor]:
    m, l, acc = state
    o = acc if wrong in ("never divided", "divided in every tile") else acc / l[:, None]
    lse = {"lse without m": l.log(), "no logarithm": m + l, "log2": m + l.log2()}
    return o, lse.get(wrong, m + l.log())


def without_tiles(q, k, v, block_m, block_n, traffic):
    """Right numbers, no tiles: everything is loaded at once, and all the scores exist together."""
    q, k, v = (traffic.load(name, x) for name, x in (("q", q), ("k", k), ("v", v)))
    s = q @ k.T * q.shape[1] ** -0.5
    o, lse = traffic.store("o", s.softmax(-1) @ v), traffic.store("lse", s.logsumexp(-1))
    return o, lse


def keys_outside(q, k, v, block_m, block_n, traffic):
    """Right numbers, FlashAttention-1's order: every query tile is loaded for every key tile."""
    o, lse = torch.zeros_like(q), torch.full((len(q),), -math.inf)
    for j in range(0, len(k), block_n):
        k_j, v_j = traffic.load("k", k[j : j + block_n]), traffic.load("v", v[j : j + block_n])
        for i in range(0, len(q), block_m):
            rows = slice(i, i + block_m)
            s = traffic.load("q", q[rows]) @ k_j.T * q.shape[1] ** -0.5
            total = torch.logaddexp(lse[rows], s.logsumexp(-1))
            keep = torch.exp(lse[rows] - total)[:, None]
            o[rows] = keep * o[rows] + torch.exp(s - total[:, None]) @ v_j
            lse[rows] = total
    traffic.store("o", o), traffic.store("lse", lse)
    return o, lse


def by_logaddexp(q, k, v, block_m, block_n, traffic):
    """Another right answer: carries the normalised o and lse instead of m, l, acc."""
    parts = []
    for q_i in q.split(block_m):
        q_i = traffic.load("q", q_i)
        o, lse = torch.zeros_like(q_i), torch.full((len(q_i),), -math.inf)
        for k_j, v_j in zip(k.split(block_n), v.split(block_n), strict=True):
            s = q_i @ traffic.load("k", k_j).T / math.sqrt(q.shape[1])
            total = torch.logaddexp(lse, s.logsumexp(-1))
            o = torch.exp(lse - total)[:, None] * o
            o += torch.exp(s - total[:, None]) @ traffic.load("v", v_j)
            lse = total
        parts.append((traffic.store("o", o), traffic.store("lse", lse)))
    o, lse = (torch.cat(x) for x in zip(*parts, strict=True))
    return o, lse
