"""Helpers that several test files share: web."""

import io
import time

from PIL import Image

from helpers import PATIENCE

HERE = "http://127.0.0.1:7860"


FAST = {"num_inference_steps": 2, "guidance_scale": 5.0, "seed": 3}


RED = {"word": "red", "concept": "Color", "strength": 5.0}


def ask(client, kind, /, **asked):
    answer = client.post(f"/api/{kind}", json=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ended(client, job):
    until = time.monotonic() + PATIENCE
    while job["state"] not in ("done", "failed", "cancelled"):
        assert time.monotonic() < until
        job = client.get(f"/api/jobs/{job['id']}", params={"since": job["version"]}).json()
    return job


def done(client, kind, /, **asked):
    job = ended(client, ask(client, kind, **asked))
    assert job["state"] == "done", job["error"]
    return job


def png(size=(64, 48), color="purple"):
    content = io.BytesIO()
    Image.new("RGB", size, color).save(content, format="PNG")
    return content.getvalue()


MEASURED = {"concepts": "paper34", "pictures": 6, "batch_size": 2, "keep_pictures": 1}
