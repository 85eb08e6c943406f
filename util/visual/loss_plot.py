"""Loss curves as a PNG file, for documents."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from util.files import write_atomic
from util.visual.base import grouped
from util.visual.curves import COLOURS, series, smoothed
from util.visual.jsonl import names_in, read_log


def plot_losses(log_path: str | Path, out_png: str | Path) -> None:
    """Draw the curves of a `log.jsonl`, one axis for each group of losses, moving average over raw values.

    Raises:
        ValueError: the log is missing or empty.
    """
    # Imported here: matplotlib takes a second, and training never needs it. Agg draws without a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = read_log(log_path)
    groups = grouped(names_in(records))
    if not groups:
        raise ValueError(f"{log_path} holds no losses; train with the JSONL log first, or check the path.")
    figure = Figure(figsize=(4.6 * len(groups), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (group, names) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups.items(), strict=True):
        for index, name in enumerate(names):
            steps, values = series(records, name)
            colour = COLOURS[index % len(COLOURS)]
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            axes.plot(steps, smoothed(values), color=colour, linewidth=1.5, label=name)
        axes.set(title=group, xlabel="optimiser step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_atomic(Path(out_png), picture.getvalue())
