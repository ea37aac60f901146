"""Relevance on the Hub: a repository with one safetensors file and a card that describes it.

If the name is that of a local folder, it is read from there, without any network request.
"""

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TypeVar, runtime_checkable

from headwise.errors import UnreadableFile
from headwise.files import write_whole

__all__ = ["HubFile", "card_of"]

NAME = "relevance.safetensors"


@runtime_checkable
class _OneFile(Protocol):
    """An object that `save` writes to one file and `load` reads back."""

    def save(self, path: str | Path) -> None: ...

    @classmethod
    def load(cls, path: str | Path) -> Any: ...

    def save_pretrained(self, folder: str | Path) -> Path: ...


Saved = TypeVar("Saved", bound=_OneFile)


class HubFile:
    """Lets a class with `save` and `load` be stored with a card in a folder or a Hub repository."""

    @classmethod
    def from_pretrained(cls: type[Saved], name: str | Path, **options: Any) -> Saved:
        """Read from a folder, or from a repository of the Hub.

        Args:
            name: The path of a folder, or the name of a repository as "owner/name".
            options: Passed on to the Hub's download: `revision`, `token`, `cache_dir`, `local_files_only`.

        Raises:
            UnreadableFile: There is neither such a folder nor such a repository.
        """
        folder = Path(name)
        if folder.exists():
            return cls.load(folder / NAME if folder.is_dir() else folder)
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            return cls.load(hf_hub_download(str(name), NAME, **options))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            reasons = str(error).strip().splitlines() or [type(error).__name__]
            raise UnreadableFile(
                f"{name} is neither a folder with {NAME} nor a repository of the Hub that can be read: "
                f"{reasons[0]} Check the name and the network."
            ) from error

    def save_pretrained(self: _OneFile, folder: str | Path) -> Path:
        """Write the file and its card into a folder; returns the path of the file."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.save(folder / NAME)
        write_whole(folder / "README.md", card_of(self).encode())
        return folder / NAME

    def push_to_hub(self: _OneFile, name: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the file and its card to a repository of the Hub; returns the address of the commit.

        Args:
            name: The repository, as "owner/name"; it is created if it does not exist.
            private: Whether a new repository is hidden from the public.
            token: An access token; None takes the one stored by a login on this machine.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        api.create_repo(name, private=private, exist_ok=True)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            message = "Add head relevance"
            return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message=message))


def card_of(relevance: Any) -> str:
    """The README of a repository: what was measured, how, how reliable it is, and how to use it.

    Args:
        relevance: A `Relevance`.
    """
    settings = relevance.settings
    rows = []
    for name, split_half in zip(relevance.concepts, relevance.split_half, strict=True):
        heads = ", ".join(f"`{head.address}` {head.relevance:.1f}" for head in relevance.top(name, 2))
        rows.append(f"| {name} | {_number(split_half)} | {heads} |")
    keys = (
        "model",
        "pictures",
        "beside",
        "num_inference_steps",
        "guidance_scale",
        "scheduler",
        "seed",
        "source",
    )
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
            f"The relevance of each of {relevance.values.shape[1]} cross-attention heads for each of "
            f"{len(relevance.concepts)} visual concepts; the average head has 1.",
            "",
            "```python",
            "import headwise as hw",
            'relevance = hw.Relevance.from_pretrained("owner/name")',
            'relevance.top("Color", 5)' if "Color" in relevance.concepts else "print(relevance)",
            "```",
            "",
            *(f"- {key}: {settings[key]}" for key in keys if key in settings),
            "",
            "| concept | split-half | most relevant heads |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def _number(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.2f}"
