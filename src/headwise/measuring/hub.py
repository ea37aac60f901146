"""Relevance on the Hub: a repository with one safetensors file and a card that says what it is.

What lies in a local folder is read there and nothing is asked of the network.
"""

from pathlib import Path
from typing import Any

from headwise.errors import UnreadableFile
from headwise.measuring.relevance import Relevance

__all__ = ["card_of", "from_pretrained", "push_to_hub", "save_pretrained"]

NAME = "relevance.safetensors"


def save_pretrained(relevance: Relevance, folder: str | Path) -> Path:
    """Write the file and its card into a folder."""
    from headwise.files import write_whole

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    relevance.save(folder / NAME)
    write_whole(folder / "README.md", card_of(relevance).encode())
    return folder / NAME


def from_pretrained(name: str | Path, **options: Any) -> Relevance:
    """Read relevance from a folder, or from a repository of the Hub.

    Args:
        name: A folder, or "owner/name".
        options: For the Hub: `revision`, `token`, `cache_dir`, `local_files_only`.

    Raises:
        UnreadableFile: It is in neither place.
    """
    folder = Path(name)
    if folder.exists():
        return Relevance.load(folder / NAME if folder.is_dir() else folder)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Relevance.load(hf_hub_download(str(name), NAME, **options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        said = str(error).strip().splitlines()
        raise UnreadableFile(
            f"{name} is neither a folder with {NAME} nor a repository of the Hub that can be read: "
            f"{said[0] if said else type(error).__name__} Check the name and the network."
        ) from error


def push_to_hub(relevance: Relevance, name: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload file and card; returns the address of the commit."""
    from tempfile import TemporaryDirectory

    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(name, private=private, exist_ok=True)
    with TemporaryDirectory() as folder:
        save_pretrained(relevance, folder)
        return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message="Add head relevance"))


def card_of(relevance: Relevance) -> str:
    """The README of a repository: what was measured, how, how sure, and how to use it."""
    settings = relevance.settings
    rows = []
    for name, sure in zip(relevance.concepts, relevance.split_half, strict=True):
        heads = ", ".join(f"`{head.address}` {head.relevance:.1f}" for head in relevance.top(name, 2))
        rows.append(f"| {name} | {_number(sure)} | {heads} |")
    shown = ("model", "pictures", "num_inference_steps", "guidance_scale", "scheduler", "seed", "source")
    made = [f"- {key}: {settings[key]}" for key in shown if key in settings]
    return "\n".join(
        [
            "---",
            "library_name: headwise",
            *([f"base_model: {settings['model']}"] if "/" in str(settings.get("model", "")) else []),
            "tags: [interpretability, attention, text-to-image]",
            "---",
            "",
            f"# Head relevance of {settings.get('model', 'a text-to-image model')}",
            "",
            f"How much each of {relevance.values.shape[1]} cross-attention heads cares about each of "
            f"{len(relevance.concepts)} visual concepts; the average head has 1.",
            "",
            "```python",
            "import headwise as hw",
            'relevance = hw.Relevance.from_pretrained("owner/name")',
            'relevance.top("Color", 5)' if "Color" in relevance.concepts else "print(relevance)",
            "```",
            "",
            *made,
            "",
            "| concept | split-half | most relevant heads |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def _number(value: float) -> str:
    return f"{value:.2f}" if value == value else "unknown"
