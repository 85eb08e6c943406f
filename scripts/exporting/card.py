"""A model card: what the weights are, what they were trained with, how good they are, how to use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import yaml

from options.parse import RunOptions
from options.schema import show
from util.errors import printable
from util.evaluations import Evaluation

_CHIEF = (
    *("CUT_mode", "netG", "ngf", "nce_layers", "num_classes", "batch_size", "crop_size", "preprocess", "n_epochs"),
    *("n_epochs_decay", "max_iters", "lambda_GAN", "lambda_NCE", "lambda_CLS", "lambda_CAM", "lambda_IDT"),
    *("cam_weight_adv", "ema_decay", "seed"),
)
_ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}


def card_of(run: RunOptions, facts: Mapping[str, Any], evaluations: Sequence[Evaluation], license_: str) -> str:
    """The card as Markdown with the hub's YAML in front.

    Args:
        facts: see `facts_of`.
        evaluations: of these weights; none: the card says so.
        license_: of the weights, as the hub spells it.
    """
    front = yaml.safe_dump(
        _front(run, evaluations, license_), sort_keys=False, allow_unicode=True, default_flow_style=False
    )
    parts = [
        f"# {run.experiment.name}",
        f"Unpaired image-to-image translation by {run.experiment.model}: one image of the source domain in, one of the "
        "target domain out, at its own size.",
        "## Use",
        _USE.format(name=run.experiment.name),
        "## Data",
        _data(run, facts),
        "## Training",
        _training(run),
        "## Metrics",
        _metrics(evaluations),
        "## Limits",
        _LIMITS,
        "## Licence",
        f"{license_}. It holds for these weights; the images they were trained on have their own."
        + (" Ask whoever trained them." if license_ == "unknown" else ""),
    ]
    return f"---\n{front}---\n\n" + "\n\n".join(parts) + "\n"


def _front(run: RunOptions, evaluations: Sequence[Evaluation], license_: str) -> dict[str, Any]:
    name = run.experiment.name
    front: dict[str, Any] = {
        "license": license_,
        "library_name": "pytorch",
        "pipeline_tag": "image-to-image",
        "tags": ["unpaired-image-translation", run.experiment.model, "safetensors"],
    }
    results = [
        {
            "task": {"type": "image-to-image", "name": "Unpaired image translation"},
            "dataset": {"type": _measured_on(one), "name": _measured_on(one), "split": one.phase},
            "metrics": [
                {"type": metric, "value": round(value.value, 6), "name": f"{metric} {value.kind}".strip()}
                for metric, value in one.metrics.items()
                if value.value is not None and value.better  # the others are in the table below
            ],
        }
        for one in evaluations
    ]
    results = [one for one in results if one["metrics"]]
    return front | ({"model-index": [{"name": name, "results": results}]} if results else {})


_USE = """```python
from models import load_run  # from the project's folder; needs the package safetensors

model = load_run("{name}")  # this folder, downloaded
fake = model.translate("photo.tif")  # a path, a PIL image or an array; counts at the target's depth
```

On the command line: `python test.py --checkpoint {name} --input photo.tif --output out`. Weights alone:
`model.safetensors` holds each network under its name (`G.model.1.weight`), `config.json` the windows."""

_LIMITS = (
    "Trained on the images named above and on no others: other sensors, scenes or windows give pictures that look "
    "right and are wrong. A translation is no measurement."
)


def _data_name(dataroot: str) -> str:
    return printable(PurePath(dataroot).name or "unknown")


def _measured_on(one: Evaluation) -> str:
    """The data set of an evaluation, which need not be that of the training."""
    return _data_name(one.dataroot)


def _data(run: RunOptions, facts: Mapping[str, Any]) -> str:
    classes = ", ".join(f"{number} {printable(name)}" for number, name in facts["classes"].items())
    rows = [
        ("data set", _data_name(run.data.dataroot)),
        ("direction", facts["direction"]),
        ("source", f"{_channels(facts['input_nc'])}, {_window(facts['source'])}"),
        ("target", f"{_channels(facts['output_nc'])}, {_window(facts['target'])}"),
        ("sides", f"any; inside, multiples of {facts['size_multiple']} px"),
    ]
    return _table([("", ""), *rows, *([("classes", classes)] if classes else [])])


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"


def _window(fmt: Mapping[str, Any] | None) -> str:
    if fmt is None:
        return "unknown"
    if fmt["window"] is None:
        return f"{fmt['depth']}, every image by its own window"
    low, high = fmt["window"]
    return f"{fmt['depth']}, counts {low:g} to {high:g}"


def _training(run: RunOptions) -> str:
    values = {name: getattr(group, name) for group in run.groups() for name in _CHIEF if hasattr(group, name)}
    if not values.get("max_iters"):  # the epochs alone say how long
        values.pop("max_iters", None)
    rows = [(f"`--{name}`", f"`{show(values[name])}`") for name in _CHIEF if name in values]
    return _table([("option", "value"), *rows]) + "\n\nAll options: `options.yaml`."


def _metrics(evaluations: Sequence[Evaluation]) -> str:
    if not evaluations:
        return "None were measured."
    parts = []
    for one in evaluations:
        rows = [
            (f"{name}{_ARROWS[value.better]}", f"{value.value:.5g}", value.kind)
            for name, value in one.metrics.items()
            if value.value is not None
        ]
        text = f"{_measured_on(one)}, phase {one.phase}, {one.source.count} images, seed {one.seed}, {one.step} steps."
        parts.append(f"{text}\n\n{_table([('metric', 'value', 'kind'), *rows])}")
    return "\n\n".join(parts)


def _table(rows: Sequence[Sequence[str]]) -> str:
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], f"|{'---|' * len(rows[0])}", *lines[1:]])
