"""Figures of the lesson on serving: requests over time, gaps between tokens, load, capacity."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter

from course.serving import LOST, PROMPT, WRITES, Run
from course.style import COLORS, figure, seconds, text_on
from reference.serving import Objective, Summary, Trace

__all__ = ["capacity_curve", "request_timeline", "served_requests", "token_gaps", "under_load"]

KINDS = {PROMPT: (COLORS.k, "computes its prompt"), WRITES: (COLORS.v, "writes a token")}
WAITS = (COLORS.idle, "waits")
EDGED = 600  # blocks: with more of them, their edges would hide them


def request_timeline(runs: Mapping[str, Run], unit: str = "step") -> Figure:
    """Draw what each request does, step by step: one row per request, one panel per run.

    runs: by title, what `course.serving` returns. unit: "step", or "s" for seconds. A block of a
    prompt says how many tokens it has; a cross marks where a request gives its pages back.
    """
    rows = [len(run.traces) for run in runs.values()]
    size = (9.0, 0.33 * sum(rows) + 0.75 * len(runs) + 0.6)
    fig, axes = figure(len(runs), 1, size=size, squeeze=False, sharex=True, height_ratios=rows)
    total = max(span.stop for run in runs.values() for span in run.spans)
    for ax, (title, run) in zip(axes[:, 0], runs.items(), strict=True):
        _draw_run(ax, run, total)
        ax.set_title(title)
    axes[-1, 0].set_xlabel("step of the model" if unit == "step" else "time, s")
    patches = [Patch(color=color, label=label) for color, label in (*KINDS.values(), WAITS)]
    marks = list(patches)
    if any(run.preemptions for run in runs.values()):
        marks += axes[0, 0].plot([], [], "X", color=COLORS.accent, ms=8, label="gives its pages up")
    fig.legend(handles=marks, loc="outside lower center", ncols=len(marks), fontsize=9)
    return fig


def _draw_run(ax: Axes, run: Run, total: float) -> None:
    for i, trace in enumerate(run.traces):
        bar = {"facecolors": WAITS[0], "edgecolor": "none"}
        ax.broken_barh([(trace.arrival, trace.finished - trace.arrival)], (i - 0.4, 0.8), **bar)
        for kind, (color, _) in KINDS.items():
            some = [span for span in run.spans if span.request == i and span.kind == kind]
            edge = {"edgecolor": "white", "lw": 0.8 if len(run.spans) <= EDGED else 0.0}
            ax.broken_barh([(s.start, s.stop - s.start) for s in some], (i - 0.4, 0.8),
                           facecolors=color, **edge)  # fmt: skip
            for span in some if kind == PROMPT else ():
                digits = len(f"{span.tokens}")
                if (
                    span.stop - span.start > (0.004 + 0.009 * digits) * total
                ):  # else it can't be read
                    ax.text((span.start + span.stop) / 2, i, f"{span.tokens}", ha="center",
                            va="center", fontsize=8, color=text_on(color))  # fmt: skip
        lost = [span.start for span in run.spans if span.request == i and span.kind == LOST]
        ax.plot(lost, [i] * len(lost), "X", color=COLORS.accent, ms=8, mec="white")
    names = [chr(ord("a") + i) if len(run.traces) <= 26 else f"{i}" for i in range(len(run.traces))]
    ax.set(yticks=range(len(names)), xlim=(0, total), ylim=(len(names) - 0.5, -0.5))
    ax.set_yticklabels(names)
    ax.tick_params(axis="y", left=False)


def token_gaps(traces: Mapping[str, Trace]) -> Figure:
    """Draw how long one request waited for each of its tokens, in several runs.

    traces: by title. One panel each, with a common scale; the longest gap is labelled.
    """
    fig, axes = figure(1, len(traces), size=(9.0, 3.0), sharey=True, squeeze=False)
    for ax, (title, trace) in zip(axes[0], traces.items(), strict=True):
        gaps = trace.gaps
        longest = max(gaps)
        colors = [COLORS.accent if gap == longest else COLORS.v for gap in gaps]
        ax.bar(range(2, len(gaps) + 2), gaps, color=colors, width=1.0)
        at = gaps.index(longest) + 2
        side = "right" if at > len(gaps) / 2 else "left"
        ax.text(at, longest, f" {1000 * longest:.0f} ms ", ha=side, va="bottom", fontsize=9)
        ax.set(title=title, xlabel="token of the answer")
    axes[0, 0].set_ylabel("time since the last one")
    axes[0, 0].set_ylim(0, 1.12 * max(max(trace.gaps) for trace in traces.values()))
    seconds(axes[0, 0].yaxis)
    return fig


def served_requests(traces: Sequence[Trace], objective: Objective | None = None) -> Figure:
    """Draw every request of a run from its arrival: the wait for its first token, then its answer.

    traces: in any order; requests without a token are left out. objective: requests that missed it
    are drawn in another colour.
    """
    shown = sorted((t for t in traces if t.times), key=lambda trace: trace.arrival)
    if not shown:
        raise ValueError("traces must hold a request with a token; got none")
    began = shown[0].arrival
    fig, ax = figure(size=(9.0, min(6.5, 1.6 + 0.06 * len(shown))))
    for y, trace in enumerate(shown):
        met = objective is None or objective.met(trace)
        first, last = trace.times[0] - began, trace.times[-1] - began
        ax.plot([trace.arrival - began, first], [y, y], color=COLORS.mask, lw=1.6)
        ax.plot([first, last], [y, y], color=COLORS.v if met else COLORS.accent, lw=1.6)
    handles = [Patch(color=COLORS.mask, label="waits for its first token")]
    handles.append(Patch(color=COLORS.v, label="its answer"))
    if objective is not None:
        handles.append(Patch(color=COLORS.accent, label="its answer; it missed an objective"))
    ax.legend(handles=handles, loc="lower right", fontsize=9)
    ax.set(xlabel="time, s", ylabel="requests, by arrival")
    ax.set_ylim(-1, len(shown))
    return fig


def under_load(
    rates: Sequence[float], summaries: Sequence[Summary], objective: Objective
) -> Figure:
    """Draw how an engine fares as more requests arrive: TTFT, TPOT, and what is good of it.

    rates: requests per second. summaries: what came of each, with percentiles 50, 90 and 99.
    """
    fig, (first, later, good) = figure(1, 3, size=(10.0, 3.2))
    styles = {50: (COLORS.score, "-"), 90: (COLORS.k, "-"), 99: (COLORS.sum, "-")}
    for p, (color, line) in styles.items():
        first.plot(rates, [s.ttft[p] for s in summaries], line, marker="o", ms=4, color=color)
        later.plot(rates, [s.tpot[p] for s in summaries], line, marker="o", ms=4, color=color,
                   label=f"p{p}")  # fmt: skip
    for ax, limit, title in ((first, objective.ttft, "TTFT"), (later, objective.tpot, "TPOT")):
        ax.axhline(limit, color=COLORS.accent, lw=1.2, ls="--")
        ax.set_title(title)
    first.set_yscale("log")
    for ax in (first, later):
        seconds(ax.yaxis)
    first.yaxis.set_minor_formatter(NullFormatter())
    later.set_ylim(bottom=0)
    later.legend(fontsize=9)
    good.plot(rates, rates, color=COLORS.mask, lw=1.2, label="all that arrive")
    good.plot(rates, [s.goodput for s in summaries], "o-", ms=4, color=COLORS.v, label="goodput")
    good.set(title="requests per second", ylim=(0, None))
    good.legend(fontsize=9)
    for ax in (first, later, good):
        ax.set_xlabel("requests arriving per second")
    return fig


def capacity_curve(
    requests: Sequence[int],
    tpot: Sequence[float],
    rate: Sequence[float],
    fit: int,
    limit: float,
) -> Figure:
    """Draw TPOT and the rate of answers against the number of requests that run at once.

    tpot: seconds. rate: requests per second. fit: how many fit into memory. limit: of TPOT, s.
    """
    fig, (left, right) = figure(1, 2, size=(9.0, 3.2))
    left.plot(requests, tpot, color=COLORS.k)
    left.axhline(limit, color=COLORS.accent, lw=1.2, ls="--")
    left.text(
        requests[-1], limit, "limit", ha="right", va="bottom", color=COLORS.accent, fontsize=9
    )
    left.set(title="TPOT", ylim=(0, None))
    seconds(left.yaxis)
    right.plot(requests, rate, color=COLORS.v)
    right.set(title="answers per second", ylim=(0, None))
    for ax in (left, right):
        ax.axvline(fit, color=COLORS.muted, lw=1.2, ls=":")
        ax.set_xlabel("requests at once")
    right.text(fit, 0, " memory is full", ha="right", va="bottom", rotation=90, fontsize=9,
               color=COLORS.muted)  # fmt: skip
    return fig
