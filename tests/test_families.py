"""Denoisers other than UNets: the same hooks, words and votes in PixArt, Sana, SD 3 and FLUX."""

import math
import re
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conftest import BUILD, TRANSFORMERS
from headwise.errors import HookMisuse, LayerNotReached, WordNotInPrompt
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.probe import ConceptProbe
from headwise.measuring.word_samples import sample_words
from headwise.model.attention import hooked
from headwise.model.families import family_of
from headwise.model.generate import generate
from headwise.model.heads import HeadMap, denoiser_of
from headwise.model.hooks import Hook, as_hook
from headwise.model.text_encoders import text_segments
from headwise.model.tokens import positions_in, split_words
from headwise.steering.steer import Steer, adjust, weaken
from helpers import relevance_for

pytestmark = pytest.mark.filterwarnings("ignore:.*clean_caption.*")
ALL = list(TRANSFORMERS)
JOINT = [name for name in ALL if name not in ("pixart", "sana")]
PROMPTS = ["A red dog in a vase", "a photo of a cat"]


def draw(pipe, prompts=PROMPTS, steps=2, **options):
    if hasattr(pipe, "classify_height_width_bin") or "resolution_binning" in str(pipe.__call__.__doc__):
        options |= {"use_resolution_binning": False, "height": 32, "width": 32}
    asked = {"num_inference_steps": steps, "output_type": "latent"} | options
    return generate(pipe, prompts, 0, range(len(prompts)), **asked)


def passing(attend, site, query, key, value):
    return attend(query, key, value)


class Explicit:
    """Attention by its maps, changed at one layer by `change(maps, layer)`."""

    def __init__(self, monkeypatch, change):
        self.change, self.layer, self.fused = change, None, F.scaled_dot_product_attention
        monkeypatch.setattr(F, "scaled_dot_product_attention", self)

    def watch(self, pipe):
        modules = dict(denoiser_of(pipe).named_modules())
        for index, layer in enumerate(HeadMap.of(pipe)):
            module = modules[layer.address]
            module.register_forward_pre_hook(lambda *_, n=index: setattr(self, "layer", n))
            module.register_forward_hook(lambda *_: setattr(self, "layer", None))

    def __call__(self, query, key, value, attn_mask=None, **options):
        if self.layer is None:
            return self.fused(query, key, value, attn_mask=attn_mask, **options)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        return self.change(scores, self.layer, query, key, value)


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


@pytest.mark.parametrize("name", ALL)
def test_a_weakened_head_is_its_map_rescaled(name, monkeypatch):
    pipe = TRANSFORMERS[name](dtype=torch.float64)
    head_map = HeadMap.of(pipe)
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
            calls.append((site.call.tokens, site.conditional.start if prompted else None))
        return attend(query, key, value)

    with hooked(pipe, note):
        draw(pipe)

    def change(scores, at, query, key, value):
        maps = scores.softmax(-1)
        if at == layer:
            tokens, begin = calls.pop(0)
            joint = scores.shape[-1] != tokens
            pixels = scores.shape[-1] - tokens if joint else scores.shape[-2]
            first = joint and family_of(denoiser_of(pipe)).text_first
            text_at = pixels if joint and not first else 0
            rows = slice(tokens, None) if first else slice(0, pixels)
            for picture, found in enumerate(positions if begin is not None else ()):
                for position in found:
                    maps[begin + picture, head, rows, text_at + position] *= -2
        return maps @ value

    plain = draw(pipe)
    explicit = Explicit(monkeypatch, change)
    explicit.watch(pipe)
    assert torch.allclose(draw(pipe), ours, rtol=0, atol=1e-11)
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
        draw(pipe, steps=3, guidance_scale=1.0)
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


@contextmanager
def own_places(denoiser, rotary, extra):
    """The last tokens of the text have the rotations of the first."""
    if rotary is None:
        yield
        return

    def moved(module, args, output):
        pixels, text = output
        return pixels, torch.cat([text[:-extra], text[:extra]])

    handle = getattr(denoiser, rotary).register_forward_hook(moved)
    yield
    handle.remove()


@pytest.mark.parametrize("name", JOINT)
def test_words_travel_as_if_in_the_prompt_unseen(name, concepts, monkeypatch):
    """The naive way: each word stands behind the prompt in the text, and a mask hides it from all others."""
    pipe = TRANSFORMERS[name](dtype=torch.float64)
    head_map, probe = HeadMap.of(pipe), ConceptProbe(pipe, concepts, seed=3)
    with hooked(pipe, probe):
        probe.begin([5])
        ours = draw(pipe, PROMPTS[:1])
    winners = probe.take()[0, :, 0]
    given, prompted = [], []

    def note(attend, site, query, key, value):
        if site.layer == 0:
            prompted.append(site.conditional.start < site.conditional.stop)
        return attend(query, key, value)

    handle = pipe.transformer.register_forward_pre_hook(
        lambda m, args, kwargs: given.append((args, kwargs)), with_kwargs=True
    )
    with hooked(pipe, note):
        draw(pipe, PROMPTS[:1])
    handle.remove()
    given = [call for call, is_prompted in zip(given, prompted, strict=True) if is_prompted]
    family = family_of(pipe.transformer)
    words = [word for _, words in concepts.pairs for word in words]
    embedded = concepts.embed(pipe)
    alone = {w: e for w, e in zip(words, [e for c in embedded.words for e in c], strict=True)}
    starts = embedded.start
    seen = {}

    def change(scores, layer, query, key, value):
        tokens, extra = seen["tokens"], seen["extra"]
        every = scores.shape[-1]
        first = family.text_first
        text = list(range(tokens)) if first else list(range(every - tokens, every))
        prompt, word = text[: tokens - extra], text[tokens - extra :]
        pixels = [n for n in range(every) if n not in text]
        hidden = torch.zeros(every, every, dtype=torch.bool)
        hidden[np.ix_(prompt + pixels, word)] = True  # unseen by all that was there before
        hidden[np.ix_(word, prompt)] = True  # and not seeing the prompt
        hidden[np.ix_(word[: len(starts)], word[len(starts) :])] = True  # the start is alike for all words
        maps = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        row = -1
        seen[layer] = (query[row][:, pixels], key[row][:, word])
        return maps @ value

    explicit = Explicit(monkeypatch, change)
    explicit.watch(pipe)
    for step, (args, kwargs) in enumerate(given):
        kept = {}
        for word in words:
            text = kwargs["encoder_hidden_states"]
            mine = torch.cat([starts, alone[word]]).to(text)[None].expand(len(text), -1, -1)
            extra = mine.shape[1]
            seen.update(tokens=family.registers + text.shape[1] + extra, extra=extra)
            own = kwargs | {"encoder_hidden_states": torch.cat([text, mine], 1)}
            if "txt_ids" in kwargs:  # at the places of a prompt of its own
                ids = kwargs["txt_ids"]
                own["txt_ids"] = torch.cat([ids, ids[..., :extra, :]], -2)
            for mask in ("attention_mask", "encoder_hidden_states_mask"):
                if isinstance(kwargs.get(mask), torch.Tensor):
                    whole, tokens = kwargs[mask], text.shape[1]
                    ones = whole.new_ones(len(whole), extra)
                    own[mask] = torch.cat([whole[:, :tokens], ones, whole[:, tokens:]], 1)
            with own_places(pipe.transformer, family.rotary, extra):
                pipe.transformer(*args, **own)
            kept[word] = {layer: seen[layer] for layer in range(len(head_map))}
        drawn = sample_words(3, 5, len(given), len(head_map), concepts)[step]
        for layer, (begin, end) in enumerate(head_map.slices):
            chosen = [of[n] for (_, of), n in zip(concepts.pairs, drawn[layer], strict=True)]
            queries = kept[chosen[0]][layer][0]
            lead = kept[chosen[0]][layer][1][:, : len(starts)]
            keys = [lead, *(kept[word][layer][1][:, len(starts) :] for word in chosen)]
            maps = (queries @ torch.cat(keys, 1).transpose(-1, -2) / math.sqrt(queries.shape[-1])).softmax(-1)
            ends = np.cumsum([k.shape[1] for k in keys])
            votes = [maps[..., a:b].mean((1, 2)) for a, b in zip(ends, ends[1:], strict=False)]
            assert (torch.stack(votes).argmax(0).numpy() == winners[step, begin:end]).all(), (step, layer)
    assert ours.isfinite().all()


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
    draw(pipe, prompts, steps=1, guidance_scale=1.0, **options)
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

    with hooked(pipe, look):
        draw(pipe, [prompt], steps=1, guidance_scale=1.0)
    ids = [of_encoder[0] for of_encoder in ids_read(pipe, [prompt])]
    if name == "sana":
        text = [ids[0][0], *ids[0][-299:]]
    elif name.startswith("sd3"):
        text = [*ids[0], *ids[-1]]
    else:
        family = family_of(pipe.transformer)
        dropped = family.frame(pipe).dropped if family.frame else 0
        text = [0] * family.registers + ids[-1][dropped:]
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
    with pytest.raises(HookMisuse, match="prompt_2 holds 1 texts, prompt 2"):
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
    with pytest.raises(WordNotInPrompt, match="stands beyond"):
        positions_in(text_segments(pipe), prompt, "dog")
