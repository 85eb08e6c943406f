"""The page: gradio's widgets around a studio. It asks no other machine for anything."""

from __future__ import annotations

import os
from typing import Any

from scripts.showing.studio import HEADS_CHOICE, OWN, Seen, Studio
from util.errors import UserError
from util.safe_weights import missing

# Before gradio is imported: it reads them then, and would ask its makers' servers.
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
STYLE = ".whole img {width: 100%; height: 100%; object-fit: contain}"  # small pictures fill their frames
FONTS = ["system-ui", "sans-serif"]  # of the visitor's machine; gradio's own themes ask for web fonts


def page_of(studio: Studio) -> tuple[Any, dict[str, Any]]:
    """The page as gradio's Blocks, and the arguments of `launch` that belong to it.

    Raises:
        MissingPackageError: gradio is not installed.
    """
    os.environ.update(QUIET, GRADIO_TEMP_DIR=str(studio.place))  # what is uploaded goes when the page does
    try:
        import gradio as gr
    except ImportError as error:
        raise missing("gradio", "scripts/app.py") from error
    with gr.Blocks(title=f"{studio.name} - translation", analytics_enabled=False) as page:
        gr.Markdown(f"## {studio.name}\n{studio.about}")
        state = gr.State(None)
        with gr.Row():
            with gr.Column(scale=1, min_width=260):
                file = gr.File(label="Picture (8 bits, 16 bits or float)", type="filepath", height=140)
                chosen = gr.Dropdown(
                    [HEADS_CHOICE, *studio.classes], value=HEADS_CHOICE, label="Class", visible=bool(studio.classes)
                )
                method = gr.Dropdown(studio.methods, value=OWN, label="CAM method", visible=bool(studio.classes))
                strength = gr.Slider(0, 1, 0.5, step=0.05, label="Overlay strength", visible=bool(studio.classes))
                button = gr.Button("Translate", variant="primary")
                words = gr.Markdown()
                download = gr.File(label="Translation at full depth", interactive=False, height=110)
            with gr.Column(scale=3):
                with gr.Row():
                    shown = [_image(gr, label) for label in ("Input", "Translation")]
                with gr.Row(visible=bool(studio.classes)):
                    shown += [_image(gr, label) for label in ("Class on the input", "Class on the translation")]

        def look(path: str | None, name: str, by: str, share: float) -> list[Any]:
            return answer(studio, gr.Error, path, name, by, share)

        asked = [file, chosen, method, strength]
        given = [state, *shown, words, download]
        button.click(look, asked, given)
        for widget in (chosen, method):
            widget.change(look, asked, given, show_progress="hidden")
        strength.release(redraw, [state, strength], shown[2:], show_progress="hidden")
    theme = gr.themes.Base(font=FONTS, font_mono=["monospace"])
    return page, {"theme": theme, "css": STYLE, "footer_links": []}


def answer(
    studio: Studio, fault: type[Exception], path: str | None, chosen: str, method: str, strength: float
) -> list[Any]:
    """State, input, translation, both overlays, words and file of a picture.

    Raises:
        fault: what gradio shows in place of a traceback, with the message of a UserError.
    """
    try:
        seen = studio.look(path, chosen, method)
    except UserError as error:
        raise fault(str(error)) from error
    return [seen, seen.picture, seen.fake, *seen.drawn(strength), seen.words, str(seen.file)]


def redraw(seen: Seen | None, strength: float) -> list[Any]:
    """The overlays alone, from what was computed before."""
    return list(seen.drawn(strength)) if seen else [None, None]


def _image(gr: Any, label: str) -> Any:
    return gr.Image(
        label=label, type="numpy", format="png", interactive=False, height=330, buttons=[], elem_classes="whole"
    )
