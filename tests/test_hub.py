"""Relevance of a folder or the Hub; without a network, one sentence."""

import numpy as np
import pytest

from headwise.errors import UnreadableFile
from headwise.measuring.hub import card_of
from headwise.measuring.relevance import Relevance


def measured():
    return Relevance.from_votes(np.arange(1, 9).reshape(2, 4), ("Color", "Food"))


def test_there_and_back_without_the_network(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: pytest.fail("asked the network"))
    measured().save_pretrained(tmp_path / "mine")
    assert Relevance.from_pretrained(tmp_path / "mine") == measured()
    assert Relevance.from_pretrained(tmp_path / "mine" / "relevance.safetensors") == measured()


def test_the_card_says_what_it_is(tmp_path):
    card = card_of(measured())
    assert "library_name: headwise" in card and "| Color | unknown | `head 3` 1.6, `head 2` 1.2 |" in card
    measured().save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == card


def test_from_the_hub(tmp_path, monkeypatch):
    file = measured().save_pretrained(tmp_path)
    asked = {}

    def download(name, file_name, **options):
        asked.update(name=name, file=file_name, **options)
        return str(file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert Relevance.from_pretrained("owner/name", revision="v1") == measured()
    assert asked == {"name": "owner/name", "file": "relevance.safetensors", "revision": "v1"}


def test_what_is_nowhere_is_refused(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UnreadableFile, match="neither a folder with relevance.safetensors nor a repository"):
        Relevance.from_pretrained("owner/nothing", local_files_only=True)


def test_uploading_sends_file_and_card(monkeypatch):
    sent = {}

    class Api:
        def __init__(self, token=None):
            sent["token"] = token

        def create_repo(self, name, private, exist_ok):
            sent["repo"] = (name, private, exist_ok)

        def upload_folder(self, repo_id, folder_path, commit_message):
            from pathlib import Path

            sent["files"] = sorted(f.name for f in Path(folder_path).iterdir())
            return "https://hub/commit"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert measured().push_to_hub("owner/name", private=True) == "https://hub/commit"
    assert sent == {
        "token": None,
        "repo": ("owner/name", True, True),
        "files": ["README.md", "relevance.safetensors"],
    }
