"""The probe's votes, count for count, beside an implementation that shares nothing with it but the draws.

The naive one replaces every attn2 processor by its own, encodes words with the text encoders themselves,
and projects keys anew at every call, for one image, one head and one word list at a time, with an explicit
softmax in float64.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, HeunDiscreteScheduler

from conftest import BUILD, ddim, pndm, tiny_sd
from headwise.errors import HeadwiseError, HookMisuse, ModelNotLoaded, NotFinite, RunMismatch
from headwise.measuring.concepts import ConceptSet, WordEmbeddings
from headwise.measuring.estimators import Estimator, estimator_of
from headwise.measuring.measure import measure
from headwise.measuring.probe import ConceptProbe
from headwise.measuring.votes import Votes
from headwise.measuring.word_samples import WordTokens, sample_words
from headwise.model.attention import hooked
from headwise.model.generate import latents_for

PROMPTS = ["a dog", "a photo of a red car", "a cat in a vase"]
PLACES = ("down_blocks", "mid_block", "up_blocks")


def naive_word(pipe, word):
    """Embeddings of the start token and of the word's tokens, in float64."""
    parts = []
    for tokenizer, encoder in (
        (pipe.tokenizer, pipe.text_encoder),
        (getattr(pipe, "tokenizer_2", None), getattr(pipe, "text_encoder_2", None)),
    ):
        if encoder is None:
            continue
        ids = tokenizer([word], padding="max_length", return_tensors="pt").input_ids
        count = len(tokenizer(word, add_special_tokens=False).input_ids)
        with torch.no_grad():
            out = encoder(ids, output_hidden_states=True)
        hidden = out.hidden_states[-2] if hasattr(pipe, "tokenizer_2") else out.last_hidden_state
        parts.append(hidden[0].double()[: 1 + count])
    return torch.cat(parts, -1)


class NaiveProcessor:
    def __init__(self, layer, heads, words, votes, draws):
        self.layer, self.heads, self.words, self.votes = layer, heads, words, votes
        self.draws, self.step = draws, 0

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        query, key = attn.to_q(hidden_states), attn.to_k(encoder_hidden_states)
        value = attn.to_v(encoder_hidden_states)
        rows, pixels, width = query.shape
        dim = width // self.heads
        out = torch.zeros_like(query)
        for row in range(rows):
            for h in range(self.heads):
                part = slice(h * dim, (h + 1) * dim)
                weights = torch.exp(query[row][:, part] @ key[row][:, part].T / dim**0.5)
                out[row, :, part] = weights / weights.sum(1, keepdim=True) @ value[row][:, part]
                if row == rows - 1:
                    self.vote(attn, h, query[row][:, part].double(), part)
        self.step += 1
        return attn.to_out[0](out)

    def vote(self, attn, head, query, part):
        chosen = [words[i] for words, i in zip(self.words, self.draws[self.step, self.layer], strict=True)]
        tokens = torch.cat([chosen[0][:1], *(word[1:] for word in chosen)])
        key = attn.to_k(tokens)[:, part].double()
        scores = query @ key.T / key.shape[1] ** 0.5
        probs = torch.exp(scores - scores.max(1, keepdim=True).values)
        probs = (probs / probs.sum(1, keepdim=True)).mean(0)[1:]
        means, at = [], 0
        for word in chosen:
            n = len(word) - 1
            means.append(sum(probs[at : at + n].tolist()) / n)
            at += n
        # Equal words tie; rounding must not break the tie: nearly equal is equal, and the first wins.
        best = next(c for c, mean in enumerate(means) if mean >= max(means) * (1 - 1e-12))
        self.votes.append((self.step, self.layer, head, best))


def naive_votes(pipe, concepts, pictures, prompts, seed, draw=sample_words, samples_per_call=1, **options):
    """concepts × all_heads votes; images one by one, and for each draw of words anew."""
    names = [n for n in pipe.unet.attn_processors if n.endswith("attn2.processor")]
    names.sort(key=lambda name: PLACES.index(name.split(".")[0]))
    modules = [pipe.unet.get_submodule(name.removesuffix(".processor")) for name in names]
    starts = np.cumsum([0] + [m.to_q.out_features // (m.to_k.out_features // m.heads) for m in modules])
    words = [[naive_word(pipe, word) for word in concepts.words(name)] for name in concepts.names]
    counts = np.zeros((len(words), starts[-1]), int)
    originals = dict(pipe.unet.attn_processors)
    options = {"guidance_scale": 7.5} | options
    for picture, nth in itertools.product(range(pictures), range(samples_per_call)):
        votes, drawn = (
            [],
            draw(seed, picture, 64 * samples_per_call, len(modules), concepts)[nth::samples_per_call],
        )
        replaced = {
            name: NaiveProcessor(layer, modules[layer].heads, words, votes, drawn)
            for layer, name in enumerate(names)
        }
        pipe.unet.set_attn_processor({**originals, **replaced})
        start = latents_for(pipe, seed, picture, options.get("height"), options.get("width"))
        pipe(
            prompts[picture % len(prompts)],
            latents=start[None].double(),
            output_type="latent",
            **options,
        )
        for _, layer, head, concept in votes:
            counts[concept, starts[layer] + head] += 1
    pipe.unet.set_attn_processor(originals)
    return counts


def our_votes(pipe, concepts, pictures, prompts, seed, tmp_path, samples_per_call=1, **options):
    measure(
        pipe,
        concepts,
        beside=None,
        pictures=pictures,
        prompts=prompts,
        seed=seed,
        out=tmp_path,
        estimator=Estimator(samples_per_call, num_inference_steps=50),
        progress=False,
        **options,
    )
    return Votes.load(tmp_path / "votes.safetensors").totals


CASES = {
    "plain": {"num_inference_steps": 2},
    "several draws": {"num_inference_steps": 2, "samples_per_call": 3},
    "pndm repeats a step": {"num_inference_steps": 3, "scheduler": pndm},
    "no guidance": {"num_inference_steps": 2, "guidance_scale": 1.0},
    "negative prompt": {"num_inference_steps": 2, "negative_prompt": "a red cat"},
    "not square": {"num_inference_steps": 2, "height": 16, "width": 24},
    "euler": {"num_inference_steps": 2, "scheduler": EulerDiscreteScheduler},
    "two calls a step": {"num_inference_steps": 2, "scheduler": HeunDiscreteScheduler},
}


@pytest.mark.parametrize(("case", "batch_size"), [("plain", 1), *((case, 3) for case in CASES)])
def test_votes_equal_the_naive_ones_count_for_count(exact_pipe, concepts, tmp_path, case, batch_size):
    options = dict(CASES[case])
    exact_pipe.scheduler = options.pop("scheduler", ddim)()
    theirs = naive_votes(exact_pipe, concepts, 4, PROMPTS, 7, **options)
    ours = our_votes(exact_pipe, concepts, 4, PROMPTS, 7, tmp_path, batch_size=batch_size, **options)
    assert ours.sum() > 0
    assert np.array_equal(ours, theirs)


def test_the_comparison_can_fail(concepts, tmp_path):
    pipe = tiny_sd(dtype=torch.float64)
    options = {"num_inference_steps": 3}
    ours = our_votes(pipe, concepts, 2, PROMPTS, 7, tmp_path, **options)

    def shifted(seed, picture, calls, layers, concepts):
        return np.roll(sample_words(seed, picture, calls, layers, concepts), 1, axis=0)

    assert np.array_equal(ours, naive_votes(pipe, concepts, 2, PROMPTS, 7, **options))
    assert not np.array_equal(ours, naive_votes(pipe, concepts, 2, PROMPTS, 7, draw=shifted, **options))
    assert not np.array_equal(ours, naive_votes(pipe, concepts, 2, PROMPTS, 8, **options))


def test_draws_are_uniform_and_within_their_concepts():
    draws = sample_words(0, 0, 4000, 5, [2, 3, 10])
    for concept, words in enumerate([2, 3, 10]):
        counts = np.bincount(draws[..., concept].ravel(), minlength=words)
        assert len(counts) == words
        assert np.abs(counts / counts.sum() - 1 / words).max() < 0.01
    assert abs(np.corrcoef(draws[:, 0, 2], draws[:, 1, 2])[0, 1]) < 0.05
    assert abs(np.corrcoef(draws[:, 0, 1], draws[:, 0, 2])[0, 1]) < 0.05


def test_draws_of_fewer_calls_begin_those_of_more():
    assert np.array_equal(sample_words(3, 4, 5, 6, [7, 8]), sample_words(3, 4, 50, 6, [7, 8])[:5])


def test_an_estimator_says_how_often_and_how_long(sd, concepts, tmp_path):
    kept = {"pictures": 1, "out": tmp_path / "run", "beside": None, "progress": False}
    lean = measure(sd, concepts, **kept)
    assert (lean.settings["draws"], lean.settings["num_inference_steps"]) == (8, 10)
    votes = Votes.load(tmp_path / "run" / "votes.safetensors")
    assert votes.counts.sum() == 8 * len(votes.counts) * votes.head_map.all_heads and len(votes.counts) >= 10
    with pytest.raises(RunMismatch, match="draws"):
        measure(sd, concepts, estimator="paper", num_inference_steps=10, **kept)
    paper = measure(sd, concepts, estimator="paper", num_inference_steps=2, **kept | {"out": None})
    assert "draws" not in paper.settings  # as in files from before there were estimators


def test_no_estimator():
    with pytest.raises(HeadwiseError, match="'papers' is not an estimator"):
        estimator_of("papers")
    with pytest.raises(HeadwiseError, match="samples_per_call=0"):
        Estimator(samples_per_call=0, num_inference_steps=1)


def test_draws_depend_on_seed_and_picture(concepts):
    base = sample_words(1, 2, 9, 4, concepts)
    assert base.shape == (9, 4, 3)
    assert np.array_equal(base, sample_words(1, 2, 9, 4, [3, 2, 4]))
    for seed, picture in [(2, 1), (1, 3), (-1, 2), (2**63, 2)]:
        assert not np.array_equal(base, sample_words(seed, picture, 9, 4, concepts))


def test_draws_are_those_of_yesterday():
    golden = json.loads((Path(__file__).parent / "golden" / "draws.json").read_text())
    for case in golden:
        drawn = sample_words(*case["arguments"])
        assert drawn.tolist() == case["draws"]


def test_a_tie_goes_to_the_first_concept():
    """Two concepts of the same word tie exactly, whatever the rounding of the matrix product."""
    pipe = tiny_sd()
    probe = ConceptProbe(pipe, ConceptSet({"A": ["frog"], "B": ["Frog"], "C": ["FROG"]}))
    with hooked(pipe, probe):
        probe.begin(range(2))
        pipe(["a dog", "a cat"], num_inference_steps=3, output_type="latent")
    assert (probe.take() == 0).all()


def test_the_probe_only_looks(pipe, concepts):
    def call():
        generator = torch.Generator().manual_seed(0)
        return pipe("a dog", generator=generator, num_inference_steps=2, output_type="latent").images

    stock, probe = call(), ConceptProbe(pipe, concepts)
    with hooked(pipe, probe):
        assert torch.equal(call(), stock)
    assert probe.take().shape == (
        1,
        3 if pipe.scheduler.__class__.__name__[0] == "P" else 2,
        1,
        probe.head_map.all_heads,
    )


def test_keys_are_projected_once_in_each_pipeline_call(sd, concepts):
    calls = []
    module = sd.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    probe = ConceptProbe(sd, concepts)
    handle = module.to_k.register_forward_hook(lambda m, args, out: calls.append(args[0].shape))
    with hooked(sd, probe):
        for picture in range(3):
            probe.begin([picture])
            sd("a dog", num_inference_steps=2, output_type="latent")
            probe.take()
    handle.remove()
    assert sum(shape[1] == len(probe.tokens.embeddings) for shape in calls) == 3
    assert len(calls) == 9 + 3


def test_half_precision_votes_nearly_as_single(concepts):
    agree = []
    winners = {}
    for dtype in (torch.float32, torch.bfloat16):
        pipe = tiny_sd(dtype=dtype)
        probe = ConceptProbe(pipe, concepts)
        with hooked(pipe, probe):
            for picture in range(4):
                probe.begin([picture])
                latents = latents_for(pipe, 0, picture)[None].to(dtype)
                pipe("a dog", latents=latents, num_inference_steps=1, output_type="latent")
                agree.append(probe.take())
        winners[dtype] = np.concatenate(agree)
        agree.clear()
    assert np.mean(winners[torch.float32] == winners[torch.bfloat16]) > 0.8


def test_not_a_number_is_found_and_its_step_named(sd, concepts):
    probe = ConceptProbe(sd, concepts)

    def burst(pipe, step, timestep, tensors):
        return {"latents": tensors["latents"] * (float("nan") if step == 1 else 1)}

    with hooked(sd, probe):
        sd("a dog", num_inference_steps=4, output_type="latent", callback_on_step_end=burst)
        with pytest.raises(NotFinite, match="are not finite at step 2, so nothing was counted"):
            probe.take()


def test_misuse_is_named(sd, concepts):
    probe = ConceptProbe(sd, concepts)
    with hooked(sd, probe):
        sd("a dog", num_inference_steps=1, output_type="latent")
        with pytest.raises(HookMisuse, match="The probe saw a second pipeline call"):
            sd("a dog", num_inference_steps=1, output_type="latent")
        probe.begin([1, 2])
        with pytest.raises(HookMisuse, match="expected 2 images, but 1 rows"):
            sd("a dog", num_inference_steps=1, output_type="latent")


def test_text_of_another_width_is_refused(concepts):
    embeddings = concepts.embed(BUILD["sdxl"]())
    pipe = tiny_sd()
    with pytest.raises(ModelNotLoaded, match="reads text 32 wide, the concept words' embeddings are 48 wide"):
        with hooked(pipe, ConceptProbe(pipe, concepts, embeddings=embeddings)):
            pipe("a dog", num_inference_steps=1, output_type="latent")


def test_words_stand_behind_every_token_of_the_start():
    """Where a pipeline writes a text before the prompt, the start has several tokens, each read once."""
    words = ((torch.randn(2, 4),), (torch.randn(1, 4),))
    tokens = WordTokens(WordEmbeddings(torch.randn(3, 4), words))
    packed = tokens.pack(np.zeros((1, 2), np.int64))
    assert packed.tokens.tolist() == [[0, 1, 2, 3, 4, 5]]
    assert packed.token_index.tolist() == [[[3, 4], [5, 0]]]
    assert tokens.places.tolist() == [0, 1, 2, 3, 4, 3]
