"""The words of the emoji world: what can be drawn, under which of the paper's concepts, in which senses.

A *thing* is a drawable noun and names the sprites it is drawn with. An *attribute* changes how things or their surroundings
are drawn. A *two-sense word* is both: "orange" is a fruit in most captions and a colour in a few, so that a model trained on
them misreads the rare sense, as Stable Diffusion misreads "a lavender vase".

References:
    | Cross-Attention Head Position Patterns Can Align with Human Visual Concepts in Text-to-Image Generative Models (Park et al., 2025)
    | https://arxiv.org/abs/2412.02237
"""

from __future__ import annotations

__all__ = [
    "ATTRIBUTES",
    "COLORS",
    "CONCEPTS",
    "INK",
    "OTHER",
    "PATTERNS",
    "RARE",
    "THINGS",
    "phrase",
    "plural",
]

# concept -> {word: emoji short names}; a word that is not a noun of its own gets one from `phrase`.
THINGS: dict[str, dict[str, str]] = {
    "Animals": {
        "dog": "dog2", "cat": "cat2", "elephant": "elephant", "bird": "bird", "fish": "fish", "butterfly": "butterfly",
        "frog": "frog", "horse": "racehorse", "leopard": "leopard", "zebra": "zebra_face", "bat": "bat", "mouse": "mouse2",
    },
    "Plants": {
        "tree": "evergreen_tree", "cactus": "cactus", "tulip": "tulip", "rose": "rose", "sunflower": "sunflower",
        "lavender": "hyacinth",
    },
    "Fruits and Vegetables": {
        "apple": "apple", "banana": "banana", "carrot": "carrot", "broccoli": "broccoli", "grapes": "grapes",
        "orange": "tangerine", "lemon": "lemon", "peach": "peach", "cherry": "cherries", "olive": "olive",
        "chestnut": "chestnut",
    },
    "People": {
        "baby": "baby", "man": "man", "woman": "woman", "farmer": "male-farmer", "astronaut": "male-astronaut",
    },
    "Vehicles": {
        "car": "car", "bicycle": "bike", "airplane": "airplane", "train": "steam_locomotive", "boat": "boat", "bus": "bus",
        "helicopter": "helicopter",
    },
    "Buildings": {
        "house": "house", "church": "church", "castle": "european_castle", "hospital": "hospital", "factory": "factory",
    },
    "Furniture": {"chair": "chair", "bed": "bed", "sofa": "couch_and_lamp", "bathtub": "bathtub", "toilet": "toilet"},
    "Electronics": {
        "smartphone": "iphone", "laptop": "computer", "television": "tv", "camera": "camera", "headphones": "headphones",
        "printer": "printer",
    },
    "Clothing": {
        "shirt": "shirt", "jeans": "jeans", "dress": "dress", "coat": "coat", "shorts": "shorts", "socks": "socks",
    },
    "Accessories": {
        "hat": "tophat", "scarf": "scarf", "sunglasses": "dark_sunglasses", "watch": "watch", "handbag": "handbag",
        "crown": "crown",
    },
    "Tools": {
        "hammer": "hammer", "screwdriver": "screwdriver", "wrench": "wrench", "saw": "carpentry_saw", "axe": "axe",
        "scissors": "scissors",
    },
    "Toys": {"teddy bear": "teddy_bear", "kite": "kite", "yo-yo": "yo-yo", "puzzle": "jigsaw", "balloon": "balloon"},
    "Food and Beverages": {
        "pizza": "pizza", "burger": "hamburger", "coffee": "coffee", "cake": "cake", "donut": "doughnut",
        "salad": "green_salad", "chocolate": "chocolate_bar", "honey": "honey_pot",
    },
    "Books and Documents": {"book": "closed_book", "newspaper": "newspaper", "scroll": "scroll", "calendar": "date"},
    "Sports Equipment": {
        "soccer ball": "soccer", "tennis racket": "tennis", "basketball": "basketball", "boxing glove": "boxing_glove",
        "football": "football",
    },
    "Musical Instruments": {
        "guitar": "guitar", "piano": "musical_keyboard", "violin": "violin", "drum": "drum_with_drumsticks",
        "saxophone": "saxophone", "trumpet": "trumpet",
    },
    "Written Characters": {"letter": "ABHKMR", "digit": "234578", "Greek": "ΩΣΔΦΨΛ", "punctuation": "?!&%@;"},
    "Shape": {
        "circle": "", "square": "", "triangle": "", "hexagon": "", "star": "", "heart": "", "diamond": "",
    },
    "Facial Expressions": {
        "happy": "smiley", "sad": "disappointed", "angry": "rage", "surprised": "open_mouth", "crying": "sob",
        "laughing": "joy", "sleepy": "sleeping", "disgusted": "nauseated_face",
    },
    "Facial Features": {"eyes": "eyes", "ear": "ear", "nose": "nose", "mouth": "lips", "tooth": "tooth", "tongue": "tongue"},
    "Geo-locations": {"Japan": "jp", "France": "fr", "Brazil": "flag-br", "Canada": "flag-ca", "Sweden": "flag-se"},
}  # fmt: skip

# Drawn and named in captions, under no concept of their own; the last two are the rare senses of "bat" and "mouse".
OTHER: dict[str, str] = {
    "vase": "amphora", "teapot": "teapot", "umbrella": "closed_umbrella", "key": "key",
    "cricket bat": "cricket_bat_and_ball", "computer mouse": "three_button_mouse",
}  # fmt: skip

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (225, 35, 35), "blue": (35, 75, 230), "green": (35, 165, 55), "yellow": (252, 220, 40), "black": (28, 28, 28),
    "white": (250, 250, 250), "purple": (135, 45, 190), "gray": (128, 128, 128), "pink": (252, 120, 190),
    "brown": (125, 75, 35),
}  # fmt: skip

# The colour of what is drawn here, where none is said.
INK: dict[str, str] = {
    "circle": "blue", "square": "blue", "triangle": "blue", "hexagon": "blue", "diamond": "blue", "star": "yellow", "heart": "red",
    "letter": "black", "digit": "black", "Greek": "black", "punctuation": "black",
}  # fmt: skip

PATTERNS = ("striped", "polka-dot", "checkered", "wavy", "zigzag")

# concept -> words that change how a thing or its surroundings are drawn
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "Color": tuple(COLORS),
    "Texture": ("fuzzy", "bumpy", "grainy", "glossy", "cracked"),
    "Size": ("tiny", "small", "large", "huge"),
    "Counting": ("one", "two", "three", "four", "five", "six"),
    "Image Style": (
        "cartoon",
        "flat",
        "3d",
        "sepia",
        "black and white",
        "sketch",
        "pixel art",
        "pop art",
        "neon",
    ),
    "Material": ("wood", "metal", "gold", "glass", "marble", "brick"),
    "Lighting Conditions": ("bright", "dim", "dark", "spotlight", "backlit"),
    "Nature Scenes": ("forest", "beach", "mountain", "desert", "ocean", "meadow", "canyon"),
    "Weather Conditions": ("sunny", "rainy", "snowy", "cloudy", "stormy", "foggy", "windy"),
    "Time of Day": ("dawn", "noon", "sunset", "dusk", "night"),
    "Geometric Patterns": PATTERNS,
}

CONCEPTS: dict[str, tuple[str, ...]] = {c: tuple(w) for c, w in THINGS.items()} | ATTRIBUTES

# The rare sense of a two-sense word: a colour, a pattern, or another thing.
RARE: dict[str, dict[str, tuple[int, int, int] | str]] = {
    "Color": {
        "orange": (245, 130, 20), "rose": (232, 70, 110), "lavender": (178, 150, 230), "lemon": (245, 240, 70),
        "peach": (255, 185, 145), "cherry": (165, 10, 45), "olive": (120, 122, 35), "chestnut": (145, 65, 35),
        "chocolate": (82, 45, 22), "honey": (225, 160, 35),
    },
    "Geometric Patterns": {w: w for w in ("leopard", "zebra", "star", "heart", "diamond")},
    "Other": {"bat": "cricket bat", "mouse": "computer mouse"},
}  # fmt: skip

_PHRASES = {
    "Written Characters": {
        "letter": "letter",
        "digit": "digit",
        "Greek": "Greek letter",
        "punctuation": "punctuation mark",
    },
    "Facial Expressions": {w: f"{w} face" for w in THINGS["Facial Expressions"]},
    "Geo-locations": {w: f"flag of {w}" for w in THINGS["Geo-locations"]},
}
_PLURALS = {
    "mouse": "mice", "fish": "fish", "man": "men", "woman": "women", "church": "churches", "bus": "buses",
    "watch": "watches", "peach": "peaches", "broccoli": "broccoli", "cactus": "cacti", "dress": "dresses", "cherry": "cherries",
    "computer mouse": "computer mice", "baby": "babies", "butterfly": "butterflies", "factory": "factories", "wrench": "wrenches", "tooth": "teeth", "punctuation mark": "punctuation marks",
}  # fmt: skip


def phrase(word: str) -> str:
    """The noun phrase of a thing: "happy" is drawn as "happy face", "Japan" as "flag of Japan"."""
    return next((p[word] for p in _PHRASES.values() if word in p), word)


def plural(noun: str) -> str:
    """The plural of a noun phrase of this world."""
    if noun.startswith("flag of "):
        return noun.replace("flag", "flags", 1)
    return _PLURALS.get(noun, noun if noun.endswith("s") else noun + "s")
