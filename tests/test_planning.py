"""Plans: the arithmetic, and a calibration of a tiny pipeline."""

import json
from dataclasses import replace
from functools import wraps

import pytest

from headwise.errors import HeadwiseError
from headwise.measuring.counting import CHUNK
from headwise.measuring.plan import Calibration, calibrate, plan
from headwise.runs.schedule import chunks_of
from headwise.runs.shards import batches

KNOWN = Calibration(
    model="m",
    device="d",
    batch_size=4,
    load_s=10.0,
    once_s=2.0,
    batch_s=0.5,
    call_s=0.1,
    weights_mb=100.0,
    peak_mb=300.0,
    part_mb=5.0,
    add_s=0.02,
    save_s=0.1,
    driver_mb=100.0,
)


def test_the_sum_is_as_written():
    found = plan(KNOWN, 2100, workers=8, num_inference_steps=50, price=3)
    assert found.seconds == pytest.approx(10 + 2 + 66 * 0.5 + 263 * 50 * 0.1)
    assert found.worker_hours == pytest.approx(8 * found.seconds / 3600)
    assert found.cost == pytest.approx(3 * found.worker_hours)
    assert (found.piece, found.piece_s) == (32, pytest.approx(8 * 0.5 + 32 * 5))
    pieces = len(chunks_of(batches(0, 2100, 4, ()), [range(2100)], 8, 32))
    assert found.driver_busy == pytest.approx((pieces * 0.02 + found.seconds / 10 * 0.1) / found.seconds)
    assert found.ceiling == int(164 / 0.02 * 0.99)
    assert plan(KNOWN, 100).cost is None
    assert plan(KNOWN, 100, workers=100).piece == 4  # a batch


@pytest.mark.parametrize("wrong", [{"pictures": 0}, {"workers": 0}, {"num_inference_steps": 0}])
def test_nothing_cannot_be_planned(wrong):
    with pytest.raises(HeadwiseError, match="expected 1 or more of each"):
        plan(KNOWN, **{"pictures": 5} | wrong)


def test_a_calibration_survives_json():
    assert Calibration.from_json(json.loads(json.dumps(KNOWN.to_json()))) == KNOWN
    for wrong in ({"model": "m"}, [], KNOWN.to_json() | {"more": 1}):
        with pytest.raises(HeadwiseError, match="This is not a calibration"):
            Calibration.from_json(wrong)


def test_calls_and_batches_are_told_apart(sd, concepts, monkeypatch):
    """On a clock that every denoiser call moves by 3 s, and every batch by 1 s."""
    import headwise.measuring.plan as planning

    clock = [0.0]
    forward, generate = sd.unet.forward, planning.generate

    @wraps(forward)
    def calling(*args, **options):
        clock[0] += 3
        return forward(*args, **options)

    def generating(*args, **options):
        clock[0] += 1
        return generate(*args, **options)

    monkeypatch.setattr(sd.unet, "forward", calling)
    monkeypatch.setattr(planning, "generate", generating)
    monkeypatch.setattr(planning.time, "perf_counter", lambda: clock[0])
    found = calibrate(sd, concepts, batch_size=2, load_s=5)
    assert (found.load_s, found.batch_s, found.call_s) == (5, 1 + 3, 1.5), "PNDM makes a call more"
    assert found.peak_mb > found.weights_mb > 0 and found.part_mb > 0


def test_the_command(run, sd, tmp_path):
    sd.save_pretrained(tmp_path / "tiny")
    file = tmp_path / "calibration.json"
    line = ("plan", "-m", tmp_path / "tiny", "-n", 210, "--gpus", 8, "--price", 2.5)
    code, out, _ = run(*line, "--save", file)
    assert code == 0 and "210, of 10 steps each, by 8 workers" in out and "worker hours, for " in out
    code, out, _ = run("plan", "--calibration", file, "-n", 2100, "--gpus", 2, "--json")
    found = json.loads(out)
    assert found.keys() >= {
        "seconds",
        "worker_hours",
        "memory_mb",
        "driver_mb",
        "cost",
        "ceiling",
        "calibration",
    }
    timed = Calibration.from_json(found["calibration"])
    assert found["seconds"] == pytest.approx(plan(timed, 2100, workers=2).seconds) and found["cost"] is None
    code, _, err = run("plan", "--calibration", tmp_path / "nothing", "-n", 5)
    assert code == 2 and "nothing cannot be read: No such file" in err
    (tmp_path / "bad").write_text("{")
    code, _, err = run("plan", "--calibration", tmp_path / "bad", "-n", 5)
    assert code == 2 and "bad is not JSON" in err


def test_sdxl_has_a_short_name(run, monkeypatch):
    asked = []

    def refusing(name, **options):
        asked.append(name)
        raise HeadwiseError("no weights here.")

    monkeypatch.setattr("headwise.model.pipelines.load_pipeline", refusing)
    assert run("plan", "--model", "sdxl", "--pictures", 2100, "--gpus", 8)[0] == 2
    assert asked == ["stabilityai/stable-diffusion-xl-base-1.0"]


@pytest.mark.parametrize(("pictures", "workers"), [(2100, 8), (300, 8), (7, 3), (1, 5)])
def test_no_worker_loses_more_than_is_said(pictures, workers):
    calls = batches(0, pictures, KNOWN.batch_size, ())
    pieces = chunks_of(calls, [range(pictures)], workers, CHUNK)
    assert plan(KNOWN, pictures, workers=workers).piece == max(map(len, pieces))


def test_more_memory_and_slower_calls_only_move_what_they_should():
    slower = plan(replace(KNOWN, call_s=0.2), 1000, workers=4)
    faster = plan(KNOWN, 1000, workers=4)
    assert slower.seconds > faster.seconds and slower.memory_mb == faster.memory_mb
    assert slower.ceiling > faster.ceiling


def test_a_plan_by_effect_adds_one_gradient_per_picture(sd, concepts, monkeypatch):
    """On a clock that every batch moves by 1 s, every denoiser call by 3 s, and a gradient by 5 s more."""
    import headwise.measuring.plan as planning

    clock = [0.0]
    forward, generate, take = sd.unet.forward, planning.generate, planning.EffectProbe.take

    @wraps(forward)
    def calling(*args, **options):
        clock[0] += 0 if len(args[0]) == 1 else 3  # but for the rows that are measured, of one word each
        return forward(*args, **options)

    def generating(*args, **options):
        clock[0] += 1
        return generate(*args, **options)

    def taking(probe):
        clock[0] += 5
        return take(probe)

    monkeypatch.setattr(sd.unet, "forward", calling)
    monkeypatch.setattr(planning, "generate", generating)
    monkeypatch.setattr(planning.EffectProbe, "take", taking)
    monkeypatch.setattr(planning.time, "perf_counter", lambda: clock[0])
    found = calibrate(sd, concepts, by="effect")
    assert (found.by, found.concepts) == ("effect", len(concepts))
    assert (found.once_s, found.batch_s, found.call_s, found.effect_s) == (0, 1 + 3, 3, 5)
    assert found.driver_mb > found.part_mb > 0
    slow = replace(found, load_s=10.0, add_s=0.01)
    planned = plan(slow, 20)
    assert planned.seconds == pytest.approx(10 + 20 * (4 + 4 * 3 + 5))
    assert plan(slow, 20, num_inference_steps=8).seconds == pytest.approx(planned.seconds + 20 * 4 * 3)


def test_a_plan_by_effect_on_the_command_line(run, sd, tmp_path):
    sd.save_pretrained(tmp_path / "tiny")
    (tmp_path / "mine.toml").write_text('[concepts]\nAnimals = ["dog"]\nColor = ["red"]\n')
    file = tmp_path / "effect.json"
    line = ("plan", "-m", tmp_path / "tiny", "-c", tmp_path / "mine.toml", "--by", "effect", "-n", 30)
    code, out, _ = run(*line, "--save", file)
    assert code == 0 and "60, of 4 steps each" in out and "more for a measured call" in out
    code, out, _ = run("plan", "--calibration", file, "--json")
    assert json.loads(out)["by"] == "effect" and json.loads(out)["pictures"] == 200
    file.write_text(json.dumps(KNOWN.to_json()))
    code, _, err = run("plan", "--calibration", file, "--by", "effect")
    assert code == 2 and "holds timings of a measurement by votes" in err
