"""Make the pictures of editing.md by running its graphs: `python docs/pictures.py [NAME ...]`, all without a name (`make pictures`)."""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from strip import sheet

DOCS = Path(__file__).parent
# what the graphs save, by how many stand in a row
COLUMNS = {
    "sdedit_strokes": 2,
    "sdedit_masked": 4,
    "compositing": 2,
    "ddim_inversion": 4,
    "stored_trajectory": 3,
    "null_text": 3,
    "negative_prompt_inversion": 3,
    "direct_inversion": 3,
    "edict": 3,
    "edit_friendly_ddpm": 4,
    "ddib": 3,
    "diffedit": 5,
    "p2p_replace": 3,
    "p2p_refine": 3,
    "p2p_reweight": 2,
    "p2p_real": 3,
    "attention_maps": 4,
    "plug_and_play": 3,
    "masactrl": 3,
    "attend_and_excite": 2,
    "pix2pix_zero": 4,
    "paint_with_words": 4,
    "self_attention_guidance": 3,
    "perturbed_attention_guidance": 3,
    "perp_neg": 3,
    "rescale_cfg": 3,
    "compose_prompts": 3,
    "instruct_pix2pix": 3,
    "imagic": 5,
    "sige": 4,
}


def main(names: list[str]) -> None:
    """Run the graphs of these names, or all. Raises SystemExit for a name that is none."""
    if unknown := sorted(set(names) - COLUMNS.keys()):
        raise SystemExit(f"there is no picture {', '.join(unknown)}; there are {', '.join(COLUMNS)}")
    for name in names or COLUMNS:
        with tempfile.TemporaryDirectory(prefix="latentgraph-") as output:
            graph = DOCS.parent / "workflows" / f"{name}.json"
            command = [sys.executable, "-c", "from server.cli import main; main()", "run", str(graph), "-o", output]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            write(name, Path(output))


def write(name: str, made: Path) -> None:
    """One picture of all that a graph saved, in few colours, so that it stays small."""
    pictures = [Image.open(path) for path in sorted(made.rglob("*.png"))]
    whole = sheet(pictures, COLUMNS[name]).quantize(96, dither=Image.Dither.NONE)
    whole.save(DOCS / "pictures" / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
