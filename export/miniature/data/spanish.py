"""Spanish terms and wordings: the second language."""

from __future__ import annotations

from omni_rt.export.miniature.data.language import Language

SPANISH = Language(
    notes=("do", "do#", "re", "re#", "mi", "fa", "fa#", "sol", "sol#", "la", "la#", "si"),
    numbers=("uno", "dos", "tres", "cuatro", "cinco", "seis"),
    clicks=("un clic", "dos clics", "tres clics", "cuatro clics", "cinco clics", "seis clics"),
    shapes={
        "sine": "senoidal",
        "square": "cuadrado",
        "saw": "de sierra",
        "triangle": "triangular",
    },
    chirps=("descendente", "ascendente"),
    ways=("baja", "sube"),
    noises={"brown": "marrón", "pink": "rosa", "white": "blanco", "blue": "azul"},
    qualities={"major": "mayor", "minor": "menor", "dim": "disminuido", "sus": "suspendido"},
    colours={"red": "rojo", "blue": "azul", "green": "verde", "yellow": "amarillo"},
    kinds={
        "note": "un tono",
        "chirp": "un barrido",
        "clicks": "clics",
        "noise": "ruido",
        "chord": "un acorde",
        "arpeggio": "un arpegio",
        "speech": "una voz",
    },
    captions={
        "note": (
            "un tono {shape} en {note} {octave}",
            "la nota {note} {octave} con un oscilador {shape}",
        ),
        "chirp": ("un barrido {chirp}", "un tono que {way}"),
        "clicks": ("{clicks}", "se oyen {clicks}"),
        "noise": ("ruido {noise}", "un poco de ruido {noise}"),
        "chord": ("un acorde de {note} {quality}", "acorde {quality} sobre {note}"),
        "arpeggio": (
            "un arpegio de {note} {quality} que {way}",
            "arpegio {chirp} de {note} {quality}",
        ),
    },
    parts={
        "note": ("el tono", "el tono {shape}"),
        "chirp": ("el barrido", "el barrido {chirp}"),
        "clicks": ("los clics", "todos los clics"),
        "noise": ("el ruido", "el ruido {noise}"),
        "chord": ("el acorde", "el acorde de {note} {quality}"),
    },
    new_parts={
        "note": ("un tono {shape} en {note} {octave}",),
        "chirp": ("un barrido {chirp}",),
        "clicks": ("{clicks}",),
        "noise": ("ruido {noise}",),
        "chord": ("un acorde de {note} {quality}",),
    },
    videos={
        "flashes": ("un clic con cada destello", "clics para los destellos"),
        "scene": ("música para esta escena", "un acorde para este color"),
    },
    timbre="tono {shape}",
    questions={
        "ask_note": ("¿qué nota es?", "¿qué nota suena?"),
        "ask_shape": ("¿qué forma de onda es?",),
        "ask_way": ("¿el tono sube o baja?",),
        "ask_count": ("¿cuántos clics hay?", "cuenta los clics."),
        "ask_noise": ("¿de qué color es el ruido?",),
        "ask_chord": ("¿qué tipo de acorde es?",),
        "ask_kind": ("¿qué se oye?", "¿qué sonido es?"),
        "ask_words": ("¿qué dice la voz?",),
        "ask_colour": ("¿de qué color es la escena?",),
        "ask_flashes": ("¿cuántos destellos hay?", "cuenta los destellos."),
    },
)
