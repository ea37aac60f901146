"""Put a trained model into the package: weights in half precision, words, prompts, and the card with what was measured."""

from __future__ import annotations

import argparse
import json
import random
import shutil
from pathlib import Path

import torch
import world
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer
from vocabulary import CONCEPTS

SOURCE = Path(__file__).parent.parent / "src/headwise"
FOLDERS = {"emoji": SOURCE / "emoji", "emoji-dit": SOURCE / "emoji/dit"}
# Names that differ, since the documents link to both.
SHEETS = {"emoji": "samples.png", "emoji-dit": "samples-dit.png"}
SURE = 0.95  # the judge scores a concept where it reads at least this share of drawings rightly


def prompts(count: int = 1000) -> list[str]:
    """Distinct captions of the world for measuring; sampled apart from training's."""
    rng, told = random.Random("prompts"), {}
    while len(told) < count:
        told[world.sample(rng, rare=0.0, bare=0.0)[1]] = None
    return list(told)


def concept_file(before: str) -> str:
    """The concept set in TOML with the world's words; what stands before and after them stays."""
    words = [f'"{concept}" = [{", ".join(json.dumps(w) for w in of)}]' for concept, of in CONCEPTS.items()]
    head, _, rest = before.partition("[concepts]\n")
    return head + "[concepts]\n" + "\n".join(words) + "\n\n" + rest.partition("\n\n")[2]


def write_words() -> None:
    """Write the world's words and prompts, which both models share; after this, relevance is to be measured anew."""
    concepts = SOURCE / "data/emoji.toml"
    concepts.write_text(concept_file(concepts.read_text()))
    (SOURCE / "data/emoji_prompts.txt").write_text("\n".join(prompts()) + "\n")


def card(work: Path) -> dict:
    """The numbers of the card, from the logs of training and evaluation."""
    read = lambda name: json.loads(file.read_text()) if (file := work / f"{name}.json").exists() else {}  # noqa: E731
    measured, denoiser = read("evaluation"), read("denoiser")
    minutes = {
        name: round(read(name).get("minutes", 0), 1)
        for name in ("autoencoder", "reader", "judge", "denoiser")
    }
    samples = {
        "reader": read("reader").get("samples"),
        "judge": read("judge").get("samples"),
        "autoencoder": read("autoencoder").get("samples"),
    }
    return measured | {
        "samples": denoiser.get("samples"), "minutes": denoiser.get("minutes"), "device": "CPU, 2 cores", "preset": denoiser.get("preset"),
        "rare": denoiser.get("rare"), "autoencoder_psnr_busy": read("autoencoder").get("psnr_busy"), "effect": read("effect"),
        "trained_with": {k: denoiser.get(k) for k in ("shape", "rule", "disagree", "everywhere")}, "minutes_of": minutes, "samples_of": samples, "autoencoder_psnr": read("autoencoder").get("psnr"),
        "scored": [concept for concept, share in measured.get("judge", {}).items() if share >= SURE],
        "concepts": len(CONCEPTS), "words": sum(map(len, CONCEPTS.values())), "two_sense_words": len(world.two_sense()),
    }  # fmt: skip


def main() -> None:
    """Copy everything; the written card (README.md) is made from card.json by `card.py`."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--work", type=Path, required=True)
    parse.add_argument(
        "--name", choices=FOLDERS, default="emoji", help="which of the built-in models this is"
    )
    parse.add_argument(
        "--words",
        action="store_true",
        help="write words and prompts too; relevance is then to be measured anew",
    )
    given = parse.parse_args()
    folder = FOLDERS[given.name]
    folder.mkdir(exist_ok=True)
    model, judge = folder / "model", FOLDERS["emoji"] / "judge"  # one judge reads the images of both
    for before in (model, judge):
        shutil.rmtree(before, ignore_errors=True)
    shutil.copytree(given.work / "model", model)
    for file in model.rglob("config.json"):  # which say where the part was loaded from
        said = json.loads(file.read_text())
        if said.pop("_name_or_path", None):
            file.write_text(json.dumps(said, indent=2) + "\n")
    encoder = model / "text_encoder/model.safetensors"
    # under the names that checkpoints have always had: older versions of transformers know no others
    named = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in load_file(encoder).items()}
    save_file(named, encoder, metadata={"format": "pt"})
    CLIPModel.from_pretrained(given.work / "judge").to(torch.float16).save_pretrained(judge)
    CLIPTokenizer.from_pretrained(given.work / "judge").save_pretrained(judge)
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}  # images in -1 … 1
    CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=64, **half).save_pretrained(judge)
    shutil.copy(given.work / "sheet.png", folder / SHEETS[given.name])
    for kind in ("relevance", "effect"):
        if (relevance := given.work / kind / "relevance.safetensors").exists():
            shutil.copy(relevance, folder / f"{kind}.safetensors")
    if given.words:
        write_words()
    (folder / "card.json").write_text(json.dumps(card(given.work), indent=1, ensure_ascii=False) + "\n")
    size = sum(f.stat().st_size for f in FOLDERS["emoji"].rglob("*") if f.is_file())
    print(f"{size / 2**20:.1f} MiB in {FOLDERS['emoji']}")


if __name__ == "__main__":
    main()
