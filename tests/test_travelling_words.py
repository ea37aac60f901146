"""In joint attention concept words travel beside the prompt, unseen by it; held to the naive way."""

import inspect
import math
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from conftest import TRANSFORMERS
from headwise.measuring.probe import ConceptProbe
from headwise.measuring.word_samples import sample_words
from headwise.model.attention import hooked
from headwise.model.families import family_of
from headwise.model.heads import HeadMap
from headwise.model.inputs import call_denoiser, rows_of, standard
from helpers import Explicit
from test_families import draw

pytestmark = pytest.mark.filterwarnings("ignore:Mismatch dtype")  # Krea 2's norms compute in float32
CROSS = ("pixart", "sana", "lumina-next")
JOINT = [name for name in TRANSFORMERS if name not in CROSS]
PROMPT = "A red dog in a vase"


class Roles:
    """What each place of a sequence is, where `extra` tokens of a word, `starts` first, follow the prompt."""

    def __init__(self, length, text, tokens, starts, extra, hidden_after):
        self.prompt = list(range(text, text + tokens))
        own = [text + tokens + n for n in range(extra + hidden_after)]
        self.start, self.word, self.unused = own[:starts], own[:extra], own[extra:]
        self.filled = list(range(own[-1] + 1, length)) if hidden_after or text == 0 else []
        self.length = length

    def hidden(self, pixels):
        """Which key is hidden from which query: the word from all that was there before, and so on."""
        hidden = torch.zeros(self.length, self.length, dtype=torch.bool)
        own = [*self.word, *self.unused]
        before = [n for n in range(self.length) if n not in own]
        hidden[np.ix_(before, own)] = True
        hidden[np.ix_(own, self.prompt)] = True
        hidden[np.ix_(own, [n for n in self.filled if n not in pixels])] = True
        hidden[np.ix_(self.word, self.unused)] = True
        hidden[np.ix_(self.start, self.word[len(self.start) :])] = True  # the start is alike for all words
        return hidden


def longer(inputs, family, mine):
    """The inputs of one row with a word's tokens behind the prompt; and where the prompt ends."""
    text = inputs["encoder_hidden_states"]
    if "text_lengths" in inputs:
        text = text[:, : int(inputs["text_lengths"][0])]
    if family.ragged:
        text = text[:, : int(inputs["encoder_attention_mask"][0].sum())]
    tokens, extra = text.shape[1], len(mine)
    mine = mine.to(text).reshape(1, extra, *text.shape[2:])
    own = inputs | {"encoder_hidden_states": torch.cat([text, mine], 1)}
    if "text_lengths" in inputs:
        own["text_lengths"] = inputs["text_lengths"] * 0 + tokens + extra
    for name in ("txt_ids", "position_ids"):  # at the places of a prompt of its own
        if name in inputs:
            ids = inputs[name]
            parts = [ids[..., :tokens, :], ids[..., :extra, :], ids[..., tokens:, :]]
            own[name] = torch.cat(parts, -2)
    for name in ("attention_mask", "encoder_hidden_states_mask", "encoder_attention_mask"):
        mask = inputs.get(name)
        if isinstance(mask, torch.Tensor):
            behind = mask[:, :0] if family.ragged else mask[:, tokens:]
            own[name] = torch.cat([mask[:, :tokens], mask.new_ones(1, extra), behind], 1)
    return own, tokens


def own_places(denoiser, family, tokens, extra):
    """Rotate the word as if it stood at the beginning, and all behind it as if it were not there."""
    ending = ExitStack()

    def moved(module, args, output):
        pixels, text = output
        return pixels, torch.cat([text[:-extra], text[:extra]])

    if family.rotary is not None:
        handle = getattr(denoiser, family.rotary).register_forward_hook(moved)
        ending.callback(handle.remove)
    if family.places is not None:
        path, first = family.places

        def coordinates(ids):
            ids, place = ids.clone(), ids[..., 0] - first
            place = torch.where(place >= tokens + extra, place - extra, place)
            inside = (ids[..., 0] - first >= tokens) & (ids[..., 0] - first < tokens + extra)
            ids[..., 0] = torch.where(inside, ids[..., 0] - tokens, place + first)
            return ids

        above, _, name = path.rpartition(".")
        owner = denoiser.get_submodule(above)
        part, kept = getattr(owner, name), dict(vars(owner))
        if isinstance(part, torch.nn.Module):
            handle = part.register_forward_pre_hook(lambda _, args: (coordinates(args[0]),))
            ending.callback(handle.remove)
        else:
            vars(owner)[name] = lambda ids: part(coordinates(ids))
            ending.callback(lambda: vars(owner).pop(name) and vars(owner).update(kept))
    return ending


def calls_with_the_prompt(pipe):
    """The inputs of every call of the denoiser, of the row with the prompt, and the pixels of its layers."""
    given, rows, pixels = [], [], []

    def note(attend, site, query, key, value):
        if site.layer == 0:
            rows.append((site.call.rows, site.conditional))
            pixels.append(query.shape[-2])
        return attend(query, key, value)

    handle = pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: given.append((args, kwargs)), with_kwargs=True
    )
    with hooked(pipe, note):
        draw(pipe, [PROMPT])
    handle.remove()
    signature, family = inspect.signature(type(pipe.transformer).forward), family_of(pipe.transformer)
    for (args, kwargs), (count, conditional) in zip(given, rows, strict=True):
        if conditional.start < conditional.stop:
            inputs = dict(list(signature.bind(pipe.transformer, *args, **kwargs).arguments.items())[1:])
            yield rows_of(standard(inputs, family), count, conditional), pixels[0]


class Seen:
    """A pipeline's own forward with one word behind the prompt: pixels' queries and the word's keys."""

    def __init__(self, pipe, monkeypatch):
        self.pipe, self.family, self.of = pipe, family_of(pipe.transformer), {}
        Explicit(monkeypatch, self.change).watch(pipe, refiners=True)

    def change(self, scores, layer, query, key, value):
        pixels, length = self.pixels, scores.shape[-1]
        if layer == "refiner":
            text, at = 0, range(0)
        elif self.family.text_first:
            text, at = 0, range(length - pixels, length)
        else:
            text, at = pixels, range(pixels)
            if self.family.filled:
                text = math.ceil(pixels / self.family.filled) * self.family.filled
        registers = 0 if layer == "refiner" else self.family.registers
        roles = Roles(length, text, registers + self.tokens, self.starts, self.extra, self.unused)
        maps = scores.masked_fill(roles.hidden(at), -torch.inf).softmax(-1)
        self.of[layer] = (query[0][:, list(at)], key[0][:, roles.word])
        return maps @ value

    def __call__(self, inputs, pixels, start, word):
        mine = torch.cat([start, word])
        self.starts, self.extra, self.pixels = len(start), len(mine), pixels
        multiple = self.family.filled or 1  # so that as much is filled up as before
        self.unused = -len(mine) % multiple
        own, self.tokens = longer(inputs, self.family, torch.nn.functional.pad(mine, (0, 0, 0, self.unused)))
        with own_places(self.pipe.transformer, self.family, self.tokens, self.extra + self.unused):
            call_denoiser(self.pipe.transformer, self.family, own)
        return dict(self.of)


@pytest.mark.parametrize("name", JOINT)
def test_words_travel_as_if_in_the_prompt_unseen(name, concepts, monkeypatch):
    """The naive way: each word stands behind the prompt in the text, and a mask hides it from all others."""
    pipe = TRANSFORMERS[name](dtype=torch.float64)
    head_map, probe = HeadMap.of(pipe), ConceptProbe(pipe, concepts, seed=3)
    with hooked(pipe, probe):
        probe.begin([5])
        draw(pipe, [PROMPT])
    winners = probe.take()[0, :, 0]
    embedded, calls = concepts.embed(pipe), list(calls_with_the_prompt(pipe))
    spelled = [word for _, of in concepts.pairs for word in of]
    words = dict(zip(spelled, [tokens for of in embedded.words for tokens in of], strict=True))
    seen, starts = Seen(pipe, monkeypatch), len(embedded.start)
    for step, (inputs, pixels) in enumerate(calls):
        kept = {word: seen(inputs, pixels, embedded.start, tokens) for word, tokens in words.items()}
        samples = sample_words(3, 5, len(calls), len(head_map), concepts)[step]
        for layer, (begin, end) in enumerate(head_map.slices):
            chosen = [of[n] for (_, of), n in zip(concepts.pairs, samples[layer], strict=True)]
            queries, keys = kept[chosen[0]][layer]
            keys = [keys[:, :starts], *(kept[word][layer][1][:, starts:] for word in chosen)]
            maps = (queries @ torch.cat(keys, 1).transpose(-1, -2) / math.sqrt(queries.shape[-1])).softmax(-1)
            ends = np.cumsum([key.shape[1] for key in keys])
            votes = [maps[..., a:b].mean((1, 2)) for a, b in zip(ends, ends[1:], strict=False)]
            assert (torch.stack(votes).argmax(0).numpy() == winners[step, begin:end]).all(), (step, layer)
