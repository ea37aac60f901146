"""Maps of words in given images, beside masks: the images, the scores, the benchmark, the command."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from conftest import TRANSFORMERS, ddim, tiny_sd
from headwise.benchmarks.method_results import Segmentation
from headwise.benchmarks.prompts.masked_words import masked_words
from headwise.benchmarks.segmentation import SEGMENTING, average_precision, benchmark_segmentation, ious
from headwise.errors import HeadwiseError, UnknownConcept, UnreadablePrompts, Unsupported
from headwise.measuring.attention_maps import AttentionMaps
from headwise.model.attention import hooked
from headwise.model.autoencoder import decoded, encoded
from headwise.model.generate import generator_for, image_size, packed
from headwise.model.noised_image import denoise_image
from headwise.report.measurement import report
from headwise.runs.scores import Scores
from helpers import relevance_for

COLORS = np.random.Generator(np.random.Philox(3)).integers(0, 255, (16, 16, 3), dtype=np.uint8)
IMAGE = Image.fromarray(COLORS)
FAMILIES = {"sd": lambda: tiny_sd(scheduler=ddim()), **{n: TRANSFORMERS[n] for n in ("sd3", "flux-dev")}}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_denoiser_sees_the_image_at_every_noise_level(family):
    pipe, seen = FAMILIES[family](), []
    denoiser = getattr(pipe, "unet", None) or pipe.transformer

    def see(_, args, kwargs):
        seen.append((args or (kwargs["hidden_states"],))[0].clone())

    watching = denoiser.register_forward_pre_hook(see, with_kwargs=True)
    scheduler, image = pipe.scheduler, IMAGE.resize(image_size(pipe))
    denoise_image(pipe, IMAGE, "a red dog", key=(4, 2), num_inference_steps=3)
    watching.remove()
    assert pipe.scheduler is scheduler and len(seen) == 3
    clean = encoded(pipe, image)
    noise = torch.randn(clean.shape, generator=generator_for(4, 2))
    clean, noise = packed(pipe, clean).double(), packed(pipe, noise).double()
    scheduler.set_timesteps(3, **({"mu": 0.5} if family == "flux-dev" else {}))
    for level, latents in enumerate(seen):
        if family == "sd":
            kept = scheduler.alphas_cumprod[scheduler.timesteps[level]].double()
            expected = kept.sqrt() * clean + (1 - kept).sqrt() * noise
        else:  # on the straight line from image to noise, wherever the schedule puts this level
            share = ((latents.double() - clean) * (noise - clean)).sum() / (noise - clean).square().sum()
            assert 0 < share <= 1.0001
            expected = clean + share * (noise - clean)
        assert torch.allclose(latents.double(), expected, atol=1e-5), level


OTHERS = ("flux2-klein", "qwen-image", "krea2", "ernie-image")
OTHER_AUTOENCODERS = [name for name in TRANSFORMERS if name in OTHERS]


@pytest.mark.parametrize("name", OTHER_AUTOENCODERS)
def test_an_autoencoder_of_another_kind_is_refused(name):
    pipe = TRANSFORMERS[name]()
    with pytest.raises(Unsupported, match=f"be encoded with {type(pipe.vae).__name__}, the autoencoder of"):
        encoded(pipe, IMAGE)


@pytest.mark.parametrize("name", [name for name in TRANSFORMERS if name not in OTHER_AUTOENCODERS])
def test_every_autoencoder_is_encoded_as_it_is_decoded(name):
    """What is taken from the code and multiplied on the way in comes back on the way out."""
    pipe = TRANSFORMERS[name]()
    config = pipe.vae.config
    code = pipe.vae.encode(pipe.image_processor.preprocess(IMAGE))
    raw = code.latent_dist.mode() if hasattr(code, "latent_dist") else code.latent
    shift = getattr(config, "shift_factor", None) or 0.0
    assert torch.allclose(encoded(pipe, IMAGE), (raw - shift) * config.scaling_factor, atol=1e-6)
    again = decoded(pipe, encoded(pipe, IMAGE), "pt")
    assert torch.allclose(
        again, pipe.image_processor.postprocess(pipe.vae.decode(raw).sample, "pt"), atol=1e-5
    )


def test_an_image_of_another_shape_is_cropped_to_its_middle(sd):
    maps = []
    wide = Image.new("RGB", (48, 16))
    wide.paste(IMAGE, (16, 0))
    for image in (IMAGE, wide):
        recorder = AttentionMaps()
        with hooked(sd, recorder):
            denoise_image(sd, image, "a red dog", num_inference_steps=2)
        maps.append(recorder.take().together())
    assert np.array_equal(*maps)


def naive_precision(map_, mask):
    order = sorted(range(mask.size), key=lambda i: (-map_.flat[i], i))
    hits, total = 0, 0.0
    for rank, i in enumerate(order, 1):
        if mask.flat[i]:
            hits += 1
            total += hits / rank
    return total / hits


@given(arrays(np.float32, (4, 5), elements=st.floats(0, 1, width=16)), arrays(bool, (4, 5)))
def test_scores_are_those_written_out(map_, mask):
    mask[0, 0] = True
    assert average_precision(map_, mask) == pytest.approx(naive_precision(map_, mask))
    for threshold, iou in zip(Segmentation.THRESHOLDS, ious(map_, mask), strict=True):
        both = sum(bool(m) and v > threshold for m, v in zip(mask.flat, map_.flat, strict=True))
        either = sum(bool(m) or v > threshold for m, v in zip(mask.flat, map_.flat, strict=True))
        assert iou == pytest.approx(both / either)


@given(arrays(bool, (4, 5)))
def test_the_mask_itself_is_the_best_map(mask):
    mask[0, 0], mask[3, 4] = True, False
    assert average_precision(mask.astype(np.float32), mask) == 1
    assert set(ious(mask.astype(np.float32), mask)) == {1.0}


def test_each_half_of_the_images_takes_its_threshold_from_the_other():
    """Images a and c are best at the second threshold and b at the third, so that each gets the other."""
    ious_of = {"a": (0, 0.9, 0.3), "b": (0, 0.2, 0.8), "c": (0, 0.7, 0.5)}
    axes = {"method": ("all heads",), "measure": Segmentation.METRICS, "seed": (0,), "word": (0, 1, 2, 3)}
    scores = Scores.empty(axes, {})
    scores.values[:] = 0
    images = ("a", "a", "b", "c")
    for word, image in enumerate(images):
        scores.values[0, 1:4, 0, word] = ious_of[image]
    found = Segmentation(scores, ("thing",) * 4, images)
    assert found.iou("all heads").value == pytest.approx((0.3 + 0.2 + 0.5) / 3)  # images count, not words
    assert found.iou_above("all heads", "all heads").value == 0


@pytest.fixture
def drawings(tmp_path):
    """Two images with three words, and their file."""
    IMAGE.save(tmp_path / "a.png")
    IMAGE.rotate(90).save(tmp_path / "b.png")
    mask = np.zeros((16, 16), bool)
    mask[:8] = True
    Image.fromarray(mask).save(tmp_path / "top.png")
    concept = '"Color"'
    file = tmp_path / "drawings.toml"
    file.write_text(
        f"""
        [[pictures]]
        picture = "a.png"
        prompt = "a red dog"
        words = [
          {{word = "red", concept = {concept}, kind = "attribute", mask = "top.png"}},
          {{word = "dog", concept = "Animals", kind = "thing", mask = "top.png"}},
        ]
        [[pictures]]
        picture = "b.png"
        prompt = "a dog"
        words = [{{word = "dog", concept = "Animals", kind = "thing", mask = "top.png"}}]
        """
    )
    return file


def test_every_method_is_scored_on_every_word(sd, drawings, tmp_path):
    words, relevance = masked_words(drawings), relevance_for(sd)
    out, options = tmp_path / "run", {"num_inference_steps": 2, "progress": False, "effect": relevance}
    found = benchmark_segmentation(sd, relevance, words, out=out, keep_words=1, **options)
    assert found.methods == tuple(SEGMENTING) and found.kinds == ("attribute", "thing", "thing")
    assert np.isfinite(found.scores.values).all() and found.scores.values.max() <= 1
    of = {method: found.scores.values[n] for n, method in enumerate(found.methods)}
    assert np.array_equal(of["votes"], of["effect"])  # the same relevance was given as both
    assert not np.array_equal(of["votes"], of["all heads"])
    page = report(out).read_text()
    assert "Do word maps show" in page and page.count("<img") == 1 + len(SEGMENTING)
    again = benchmark_segmentation(sd, relevance, words, out=out, **options)
    assert np.array_equal(again.scores.values, found.scores.values)


def test_a_map_by_a_method_is_the_weighted_mean_of_the_heads(sd, drawings):
    words, relevance, recorder = masked_words(drawings), relevance_for(sd), AttentionMaps()
    found = benchmark_segmentation(
        sd, relevance, words, methods=["votes, top quarter"], num_inference_steps=2, progress=False
    )
    with hooked(sd, recorder):
        denoise_image(sd, IMAGE, "a red dog", num_inference_steps=2)
    maps = recorder.take()
    order = np.argsort(-relevance["Color"], kind="stable")
    weights = np.zeros((3, len(order)))
    weights[:, order[: -(-len(order) // 4)]] = 1
    map_ = torch.from_numpy(maps.together(weights)[..., 1])[None, None]
    large = torch.nn.functional.interpolate(map_, (16, 16), mode="bilinear")[0, 0].numpy()
    assert found.scores.values[0, 0, 0, 0] == pytest.approx(
        naive_precision(large, words[0].mask(image_size(sd)))
    )


def test_what_is_missing_is_refused(sd, drawings):
    words, relevance = masked_words(drawings), relevance_for(sd)
    with pytest.raises(HeadwiseError, match="'effect' needs `effect`"):
        benchmark_segmentation(sd, relevance, words, methods=["effect"])
    with pytest.raises(HeadwiseError, match="is not a method"):
        benchmark_segmentation(sd, relevance, words, methods=["best"])
    strange = drawings.read_text().replace('"Animals"', '"Ships"')
    drawings.write_text(strange)
    with pytest.raises(UnknownConcept, match="Ships"):
        benchmark_segmentation(sd, relevance, masked_words(drawings))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('word = "red"', 'word = "blue"', '"blue" is not in its prompt'),
        ("concept =", "concepts =", "number 0 of \\[\\[pictures\\]\\] lacks or misspells 'concept'"),
        ("pictures", "images", "it has no \\[\\[pictures\\]\\]"),
    ],
)
def test_a_file_with_a_fault_is_refused(drawings, before, after, said):
    drawings.write_text(drawings.read_text().replace(before, after))
    with pytest.raises(UnreadablePrompts, match=said):
        masked_words(drawings)


def test_a_mask_that_says_nothing_is_refused(drawings):
    word = masked_words(drawings)[0]
    Image.new("L", (16, 16)).save(word.mask_file)
    with pytest.raises(UnreadablePrompts, match="entirely black"):
        word.mask((16, 16))
    Image.new("L", (8, 16)).save(word.mask_file)
    with pytest.raises(UnreadablePrompts, match="8 × 16 pixels, but its image has 16 × 16"):
        word.mask((16, 16))


def test_the_drawings_that_come_with_the_package_have_masks_that_say_where_words_are():
    words = masked_words("emoji")
    assert {word.kind for word in words} == {
        f"{what}, {where}" for what in ("thing", "attribute") for where in ("pair", "busy")
    }
    for word in words:
        assert 0.02 < word.mask((64, 64)).mean() < 0.9, word


def test_the_command_tells_the_numbers_of_every_kind_and_method(run, workspace, drawings):
    command = ("benchmark", "segmentation", "--pictures", drawings, "--num-inference-steps", "2", "--json")
    code, out, _ = run(*command)
    numbers = json.loads(out)
    assert code == 0 and set(numbers["kinds"]) == {"attribute", "thing"}
    assert {"iou", "precision", "iou_above_all_heads"} <= set(numbers["kinds"]["thing"]["votes"])
