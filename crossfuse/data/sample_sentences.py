"""Sentences for the sample photographs, and sentences about other pictures to compare with.

Written for this project in the manner of the training captions (short, present tense, what one
sees). The second entry of a swap is what a reader may try instead of the first.
"""

from __future__ import annotations

SENTENCES: dict[str, tuple[str, ...]] = {
    "astronaut": (
        "A smiling woman in an orange suit stands in front of a flag.",
        "A woman with short hair poses beside a model of a space shuttle.",
        "A man in a black suit stands in front of a building.",
    ),
    "chelsea": (
        "A brown cat with green eyes looks at the camera.",
        "A close view of the face of a striped animal with whiskers.",
        "A brown dog lies on a blanket.",
    ),
    "coffee": (
        "A cup of coffee on a saucer with a spoon stands on a wooden table.",
        "A red cup stands on a table.",
        "A bowl of soup stands on a white cloth.",
    ),
    "camera": (
        "A man in a dark coat looks through a camera on a tripod.",
        "A photographer stands on a grass field in front of a city.",
        "A woman in a white dress rides a horse.",
    ),
    "rocket": (
        "A white rocket stands on its launch pad beside a tower.",
        "A tall tower stands under a dark sky.",
        "A boat floats on a lake.",
    ),
    "china": (
        "A yellow temple with a decorated roof stands behind trees.",
        "People walk in front of a large building with a colorful roof.",
        "A red barn stands in the snow.",
    ),
    "flower": (
        "A red and yellow flower with green leaves.",
        "A close view of a bright flower in a garden.",
        "A green frog sits on a leaf.",
    ),
}

SWAPS: dict[str, tuple[str, str]] = {
    "astronaut": ("woman", "man"),
    "chelsea": ("cat", "dog"),
    "coffee": ("coffee", "beer"),
    "camera": ("camera", "telescope"),
    "rocket": ("rocket", "bird"),
    "china": ("temple", "ship"),
    "flower": ("flower", "bird"),
}

DISTRACTORS: tuple[str, ...] = (
    "A brown dog runs through shallow water on a beach.",
    "Two children play with a ball on the grass.",
    "A man rides a bicycle down a steep hill.",
    "A group of people sit around a table in a restaurant.",
    "A girl in a pink dress jumps on a bed.",
    "A skier jumps over a mound of snow.",
    "A football player in a white shirt catches the ball.",
    "A man climbs a rock wall with a rope.",
    "A boy swims in a blue pool.",
    "A woman walks along a street with an umbrella.",
)
