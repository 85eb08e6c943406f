"""A small page on this machine: upload a picture, see its translation and class activation maps, download it.

python scripts/app.py --checkpoint checkpoints/RUN
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it only

from options.parse import extra, inference_options
from options.schema import OptionError
from scripts.showing.options import Showing
from scripts.showing.page import page_of
from scripts.showing.studio import Studio
from util.engine.build import choose_device
from util.errors import exit_code


def main() -> int:
    run = inference_options((Showing,), prog="app.py", turns=True)
    wanted = extra(run, Showing)
    with tempfile.TemporaryDirectory(prefix="translations-") as place:
        page, look = page_of(Studio(run, choose_device(run.runtime.gpu_ids), Path(place)))
        print(f"http://127.0.0.1:{wanted.port} (Ctrl-C ends it)", flush=True)
        try:
            page.launch(
                server_name="127.0.0.1",
                server_port=wanted.port,
                share=False,
                quiet=True,
                inbrowser=wanted.open_browser,
                enable_monitoring=False,
                ssr_mode=False,
                allowed_paths=[place],
                **look,
            )
        except OSError as error:
            raise OptionError(f"--port {wanted.port}: is taken; give another") from error
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
