"""Denoisers other than UNets: the same hooks, words and votes in PixArt, Sana, SD 3 and FLUX."""

import math
import re

import numpy as np
import pytest
import torch

from conftest import BUILD, HUNYUAN, TRANSFORMERS
from headwise.errors import HookMisuse, LayerNotReached, WordNotInPrompt
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.probe import ConceptProbe
from headwise.model.attention import hooked
from headwise.model.families import family_of
from headwise.model.generate import generate
from headwise.model.heads import HeadMap, denoiser_of
from headwise.model.hooks import Hook, as_hook
from headwise.model.text_encoders import text_segments
from headwise.model.tokens import positions_in, split_words
from headwise.steering.steer import Steer, adjust, weaken
from helpers import Explicit, relevance_for, size_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*clean_caption.*"),
    pytest.mark.filterwarnings("ignore:Mismatch dtype"),  # Krea 2's norms compute in float32
]
ALL = list(TRANSFORMERS)
PROMPTS = ["A red dog in a vase", "a photo of a cat"]


def draw(pipe, prompts=PROMPTS, steps=2, **options):
    if hasattr(pipe, "classify_height_width_bin") or "resolution_binning" in str(pipe.__call__.__doc__):
        options |= {"use_resolution_binning": False, "height": 32, "width": 32}
    asked = {"num_inference_steps": steps, "output_type": "latent"} | size_of(pipe) | options
    return generate(pipe, prompts, 0, range(len(prompts)), **asked)


def unguided(name):
    """The weight of guidance at which there is none."""
    return 0.0 if name in ("krea2", "z-image") else 1.0


def passing(attend, site, query, key, value):
    return attend(query, key, value)


@pytest.mark.parametrize("name", ALL)
def test_a_hook_that_does_nothing_changes_no_bit_and_leaves_nothing(name):
    pipe = TRANSFORMERS[name]()
    before, sites = draw(pipe), []

    def look(attend, site, query, key, value):
        sites.append((site.step, site.layer, query.shape[-2] == site.height * site.width))
        return attend(query, key, value)

    state = {n: dict(m.__dict__) for n, m in denoiser_of(pipe).named_modules()}
    with hooked(pipe, look, passing):
        inside = draw(pipe)
    assert torch.equal(before, inside) and torch.equal(before, draw(pipe))
    layers = range(len(HeadMap.of(pipe)))
    calls = range(len(sites) // (2 * len(layers)))  # of a step: guidance makes one of its own in some
    assert len(calls) in (1, 2)
    assert sites == [(step, layer, True) for step in range(2) for _ in calls for layer in layers]
    assert {n: dict(m.__dict__) for n, m in denoiser_of(pipe).named_modules()} == state


def in_sequence(family, site, length):
    """Where the text begins and where the pixels stand in each row of the denoiser's own sequence."""
    tokens, pixels, rows = site.call.tokens, site.height * site.width, site.call.rows
    if site.kind == "cross":
        return [(0, slice(0, pixels))] * rows
    if family.ragged:
        return [(0, slice(own, own + pixels)) for own in site.call.lengths]
    if family.filled:
        return [(math.ceil(pixels / family.filled) * family.filled, slice(0, pixels))] * rows
    return [(0, slice(tokens, None)) if family.text_first else (length - tokens, slice(0, pixels))] * rows


@pytest.mark.parametrize("name", ALL)
def test_a_weakened_head_is_its_map_rescaled(name, monkeypatch):
    pipe = TRANSFORMERS[name](dtype=torch.float64)
    head_map, family = HeadMap.of(pipe), family_of(denoiser_of(pipe))
    layer, head = len(head_map) - 1, 1
    index = head_map.index(head_map.layers[layer].address, head)
    with hooked(pipe, weaken(head_map, [index], ["dog", "cat"])):
        ours = draw(pipe)
    positions, calls = [], []

    def note(attend, site, query, key, value):
        if site.layer == layer:
            prompted = site.conditional.start < site.conditional.stop
            if prompted:
                positions[:] = [site.call.positions(n, word) for n, word in enumerate(("dog", "cat"))]
            begin = site.conditional.start if prompted else None
            calls.append((in_sequence(family, site, key.shape[-2]), begin))
        return attend(query, key, value)

    with hooked(pipe, note):
        draw(pipe)

    def change(scores, at, query, key, value):
        maps = scores.softmax(-1)
        if at == layer:
            places, begin = calls.pop(0)
            for picture, found in enumerate(positions if begin is not None else ()):
                text, pixels = places[begin + picture]
                for position in found:
                    maps[begin + picture, head, pixels, text + position] *= -2
        return maps @ value

    plain = draw(pipe)
    explicit = Explicit(monkeypatch, change)
    explicit.watch(pipe)
    within = 1e-6 if name == "z-image" else 1e-11  # whose pipeline keeps latents in float32
    assert torch.allclose(draw(pipe), ours, rtol=0, atol=within)
    assert not torch.allclose(plain, ours, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_steering_follows_its_dial(name):
    pipe = TRANSFORMERS[name]()
    relevance = relevance_for(pipe)
    some = relevance.concepts[:2]
    before = draw(pipe)
    with hooked(pipe, adjust(relevance, ["red", None], toward=some[0], away=some[1], strength=0)):
        assert torch.equal(draw(pipe), before)
    with hooked(pipe, adjust(relevance, ["red", None], toward=some[0], away=some[1])):
        after = draw(pipe)
    assert not torch.equal(after[0], before[0])
    assert torch.allclose(after[1], before[1], atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_what_is_run_again_is_what_the_pipeline_runs_next(name):
    """On the same latents at the scheduler's timestep, which some pipelines scale."""
    pipe = TRANSFORMERS[name]()
    if name == "sana":
        pipe.transformer.register_to_config(timestep_scale=0.001)
    seen, again = {}, {}

    def look(attend, site, q, k, v):
        seen[site.call.step, site.layer] = q[site.conditional]
        return attend(q, k, v)

    class Again(Hook):
        def after_step(self, latents, call):
            step = call.step + 1
            if step < call.steps:
                keep = as_hook(
                    lambda attend, site, *qkv: again.update({(step, site.layer): qkv[0]}) or attend(*qkv)
                )
                call.rerun(keep, latents, call.scheduler.timesteps[step])
            return latents

    with hooked(pipe, Again(), look):
        draw(pipe, steps=3, guidance_scale=unguided(name))
    assert again.keys() == {at for at in seen if at[0]} and len(again) == 2 * len(HeadMap.of(pipe))
    for at, query in again.items():
        torch.testing.assert_close(query, seen[at], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_a_layer_passed_by_is_named(name):
    pipe = TRANSFORMERS[name]()
    layers = HeadMap.of(pipe).layers
    part = layers[0].address.partition(".")[0]
    blocks = getattr(pipe.transformer, part)
    gone = layers[len(blocks) - 1].address
    kept = torch.nn.ModuleList(list(blocks)[:-1])
    with pytest.raises(LayerNotReached, match=gone), hooked(pipe, passing):
        setattr(pipe.transformer, part, kept)
        draw(pipe)


@pytest.mark.parametrize("name", ALL)
def test_looking_changes_no_bit_of_the_picture(name, concepts):
    pipe = TRANSFORMERS[name]()
    before, probe = draw(pipe), ConceptProbe(pipe, concepts)
    with hooked(pipe, probe):
        probe.begin([0, 1])
        inside = draw(pipe)
    winners = probe.take()
    assert torch.equal(before, inside)
    assert winners.shape == (2, 2, 1, HeadMap.of(pipe).all_heads) and len(np.unique(winners)) > 1


def ids_read(pipe, prompts, **options):
    """The token ids that the encoders were given, for each prompt."""
    seen, handles = [], []
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        module = getattr(pipe, name, None)
        if module is not None:
            handles.append(
                module.register_forward_pre_hook(
                    lambda m, args, kwargs: seen.append(args[0] if args else kwargs["input_ids"]),
                    with_kwargs=True,
                )
            )
    draw(pipe, prompts, **{"steps": 1, "guidance_scale": 1.0} | options)
    for handle in handles:
        handle.remove()
    return [ids.tolist() for ids in seen]


@pytest.mark.parametrize("name", ALL)
def test_words_are_found_in_every_encoder(name):
    pipe = TRANSFORMERS[name]()
    prompt = "A red dog, in a RED vase"
    found = {}

    def look(attend, site, query, key, value):
        found.update(all=site.call.positions(0, "red"), second=site.call.positions(0, "red", 2))
        found.update(words=site.call.positions(0, None))
        return attend(query, key, value)

    scale = unguided(name)
    with hooked(pipe, look):
        draw(pipe, [prompt], steps=1, guidance_scale=scale)
    ids = [of_encoder[0] for of_encoder in ids_read(pipe, [prompt], guidance_scale=scale)]
    if name == "sana":
        text = [ids[0][0], *ids[0][-299:]]
    elif name.startswith("sd3"):
        text = [*ids[0], *ids[-1]]
    else:
        family = family_of(pipe.transformer)
        dropped = family.frame(pipe, {}).dropped if family.frame else 0
        text = [0] * family.registers + ids[-1][dropped:]
        if family.trimmed:
            text = [number for number in text if number != pipe.tokenizer.pad_token_id]
    said = list({reader.start: reader.tokenizer for reader in text_segments(pipe)}.values())
    for tokenizer in said:
        decoded = [tokenizer.decode([i]).strip() for i in text]
        both = [decoded[p] for p in found["all"]]
    readers = len(said)
    spelled = "".join(both).lower().replace("▁", "")
    assert "red" in spelled or readers > 1
    if readers == 1:
        assert spelled == "redred"
        assert "".join(decoded[p] for p in found["second"]).replace("▁", "").lower() == "red"
        everything = "".join(decoded[p] for p in found["words"]).replace("▁", "").lower()
        assert everything == prompt.lower().replace(" ", "")
    else:
        clip, t5 = said
        length = clip.model_max_length
        of_clip = [clip.decode([text[p]]) for p in found["all"] if p < length]
        of_t5 = [t5.decode([text[p]]) for p in found["all"] if p >= length]
        assert [w.strip().lower() for w in of_clip] == ["red", "red"]
        assert "".join(w.strip() for w in of_t5).lower() == "redred"


LONG = "a photo of a car in color of " * 4 + "a red vase"
OWN = ["a photo of a dog in red", "a cat, not red"]


@pytest.mark.parametrize(
    ("name", "prompts", "options", "word"),
    [
        ("flux-dev", PROMPTS, {"prompt_2": OWN}, "red"),
        ("flux-dev", PROMPTS, {"prompt_2": OWN, "max_sequence_length": 16}, "a"),
        ("flux-schnell", [LONG], {"max_sequence_length": 64}, "vase"),
        ("sd3", PROMPTS, {"prompt_3": OWN}, "a"),
        ("sd3", ["a dog", "a cat"], {"prompt_3": OWN, "max_sequence_length": 40}, "red"),
        ("pixart", [LONG], {"max_sequence_length": 60}, "vase"),
        ("sana", ["a red dog", "red"], {"max_sequence_length": 20}, "red"),
        ("sana", ["a red dog", "red"], {"complex_human_instruction": None}, "red"),
    ],
)
def test_words_stand_where_the_encoders_read_them(name, prompts, options, word):
    """Held against the numbers that the encoders were given, for every image of the batch."""
    pipe, found = TRANSFORMERS[name](), {}

    def look(attend, site, query, key, value):
        for picture in range(len(prompts)):
            found[picture] = site.call.positions(picture, word)
        return attend(query, key, value)

    with hooked(pipe, look):
        draw(pipe, prompts, steps=1, guidance_scale=1.0, **options)
    ids = ids_read(pipe, prompts, **options)
    for picture, positions in found.items():
        text = [(pipe.tokenizer_2 if name.startswith("flux") else pipe.tokenizer, ids[-1][picture])]
        if name == "sana":
            length = options.get("max_sequence_length", 300)
            text = [(pipe.tokenizer, [ids[0][picture][0], *ids[0][picture][1 - length :]])]
        elif name == "sd3":
            text = [(pipe.tokenizer, ids[0][picture]), (pipe.tokenizer_3, ids[-1][picture])]
        each = [(tokenizer, number) for tokenizer, numbers in text for number in numbers]
        spelled = "".join(each[p][0].decode([each[p][1]]) for p in positions)
        spelled = spelled.replace("▁", "").replace(" ", "")
        assert spelled and spelled == word * (len(spelled) // len(word))
        everything = "".join(tokenizer.decode(numbers) for tokenizer, numbers in text)
        if name != "sana":
            assert spelled.count(word) == len(re.findall(rf"\b{word}\b", everything.replace("▁", " ")))


def test_texts_of_their_own_for_each_image_go_with_it():
    pipe = TRANSFORMERS["flux-schnell"]()
    arguments = {
        "prompt": ["a dog", "a cat"],
        "prompt_2": ["in red", "a red vase"],
        "num_images_per_prompt": 2,
    }
    segments = text_segments(pipe, arguments)
    found = [positions_in(segments, "a dog", "red", picture=picture) for picture in range(4)]
    assert found == [(1,), (1,), (1,), (1,)]
    assert [positions_in(segments, "a cat", "vase", picture=picture) for picture in (2, 3)] == [(2,), (2,)]
    with pytest.raises(WordNotInPrompt, match="'cat' is not a word of \"a red vase\""):
        positions_in(segments, "a cat", "cat", picture=2)
    with pytest.raises(HookMisuse, match="prompt_2 holds 1 texts, but prompt 2"):
        text_segments(pipe, arguments | {"prompt_2": "red"})


def test_a_word_of_two_encoders_side_by_side_stands_at_one_place():
    pipe = BUILD["sdxl"]()
    segments = text_segments(pipe, {"prompt": "a red dog", "prompt_2": "a blue dog of red"})
    assert positions_in(text_segments(pipe), "a red dog", "dog") == (3,)
    assert positions_in(segments, "a red dog", "a") == (1,)
    with pytest.raises(
        WordNotInPrompt, match=r"'red' has the token positions \(2,\) in \"a red dog\", \(8,\) in"
    ):
        positions_in(segments, "a red dog", "red")
    with pytest.raises(WordNotInPrompt, match=r"nowhere in \"a red dog\".*Token positions, such as \(4, 5\)"):
        positions_in(segments, "a red dog", "of")
    words = {word.text: word.positions for word in split_words(segments, "a red dog")}
    assert words["red"] == (2, 8) and words["of"] == (7,)
    assert positions_in(segments, "a red dog", None) == tuple(range(1, 9))


def test_the_refiner_reads_with_its_second_encoder():
    pipe = BUILD["sdxl"]()
    pipe.register_modules(tokenizer=None, text_encoder=None)
    assert positions_in(text_segments(pipe), "a red dog", "red") == (2,)


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
@pytest.mark.parametrize("token", ["mytoy", "red-toy", "<toy>"])
def test_a_learned_word_has_all_its_vectors(name, token):
    pipe = BUILD[name]()
    for encoder in ("", "_2") if name == "sdxl" else ("",):
        model, tokenizer = getattr(pipe, f"text_encoder{encoder}"), getattr(pipe, f"tokenizer{encoder}")
        vectors = torch.randn(3, model.config.hidden_size)
        pipe.load_textual_inversion(vectors, token=token, text_encoder=model, tokenizer=tokenizer)
    segments, prompt = text_segments(pipe), f"a {token} dog, 1 {token} of {token.upper()}"
    both = positions_in(segments, prompt, token, 1), positions_in(segments, prompt, token, 2)
    assert both == ((2, 3, 4), (8, 9, 10))
    numbers = pipe.tokenizer(pipe.maybe_convert_prompt(prompt, pipe.tokenizer)).input_ids
    for positions in both:
        read = pipe.tokenizer.convert_ids_to_tokens([numbers[p] for p in positions])
        assert read == [token, f"{token}_1", f"{token}_2"]
    assert positions_in(segments, prompt, "dog") == (5,)
    assert positions_in(segments, prompt, "1") == (7,)  # and not in mytoy_1
    embedded = ConceptSet({"Toys": [token]}).embed(pipe)
    assert embedded.words[0][0].shape[0] == 3


def test_guidance_in_calls_of_its_own_is_no_step():
    pipe = TRANSFORMERS["flux-dev"]()
    seen = []

    def look(attend, site, query, key, value):
        seen.append((site.step, len(query[site.conditional])))
        return attend(query, key, value)

    options = {"negative_prompt": "a car", "true_cfg_scale": 2.0}
    before = draw(pipe, **options)
    relevance = relevance_for(pipe)
    with hooked(pipe, look):
        assert torch.equal(draw(pipe, **options), before)
    layers = len(HeadMap.of(pipe))
    assert seen == [(step, rows) for step in range(2) for rows in (2, 0) for _ in range(layers)]
    assert "cache_context" not in vars(pipe.transformer)
    with hooked(pipe, Steer(relevance.values[:1], ["red", "cat"], head_map=relevance.head_map)):
        assert not torch.equal(draw(pipe, **options), before)


def test_votes_of_guidance_in_calls_of_its_own(concepts):
    pipe = TRANSFORMERS["flux-dev"]()
    probe = ConceptProbe(pipe, concepts)
    with hooked(pipe, probe):
        probe.begin([0, 1])
        draw(pipe, negative_prompt="a car", true_cfg_scale=2.0)
    assert probe.take().shape[1] == 2


def test_a_word_that_one_encoder_cuts_off_is_found_by_the_other():
    pipe = TRANSFORMERS["sd3"]()
    prompt = "red " * 30 + "dog"
    found = positions_in(text_segments(pipe), prompt, "dog")
    assert found and min(found) >= pipe.tokenizer.model_max_length
    pipe.text_encoder_3 = None
    with pytest.raises(WordNotInPrompt, match="is beyond"):
        positions_in(text_segments(pipe), prompt, "dog")


def test_a_word_is_found_by_bert_and_by_t5_behind_it():
    pipe = HUNYUAN()
    found = positions_in(text_segments(pipe), "a red dog in a vase", "dog")
    of_bert = pipe.tokenizer("a red dog in a vase").input_ids
    of_t5 = pipe.tokenizer_2("a red dog in a vase").input_ids
    assert pipe.tokenizer.decode([of_bert[p] for p in found if p < 77]) == "dog"
    assert pipe.tokenizer_2.decode([of_t5[p - 77] for p in found if p >= 77]) == "dog"


@pytest.mark.skipif("ernie-image" not in TRANSFORMERS, reason="this diffusers has no ERNIE-Image")
def test_a_prompt_that_the_pipeline_rewrites_is_refused():
    pipe = TRANSFORMERS["ernie-image"]()
    pipe.register_modules(pe=pipe.text_encoder, pe_tokenizer=pipe.tokenizer)
    with pytest.raises(HookMisuse, match=r"rewrites the prompt .*Pass use_pe=False, or set pipe.pe = None"):
        with hooked(pipe, passing):
            draw(pipe)
    with hooked(pipe, passing):
        assert draw(pipe, use_pe=False).isfinite().all()


@pytest.mark.parametrize("name", [name for name in ("krea2", "z-image", "lumina-next") if name in ALL])
def test_the_prompt_comes_first_though_the_negative_prompt_is_the_same(name):
    pipe, seen = TRANSFORMERS[name](), []

    def look(attend, site, query, key, value):
        if site.layer == 0:
            seen.append((site.step, site.conditional, len(query)))
        return attend(query, key, value)

    with hooked(pipe, look):
        draw(pipe, PROMPTS[:1] * 2, negative_prompt=PROMPTS[0])
    if name == "krea2":  # in two calls
        assert seen == [(step, rows, 2) for step in range(2) for rows in (slice(0, 2), slice(2, 2))]
    else:
        assert seen == [(step, slice(0, 2), 4) for step in range(2)]
