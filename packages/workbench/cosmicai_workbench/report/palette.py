"""Colours of figures and page, in light and in dark, by what they are called."""

LIGHT = {
    # Okabe and Ito's palette: told apart by the colour-blind, and dark enough on white.
    "blue": "#0072B2",
    "orange": "#C24F00",
    "green": "#007F5F",
    "purple": "#AA4499",
    "indigo": "#332288",
    "wine": "#882255",
    "red": "#B3261E",
    "sky": "#56B4E9",
    "yellow": "#E6AB02",
    "grey": "#6B7280",
    "pale": "#C3C8D0",
    "ink": "#111827",
    "soft": "#4B5563",
    "line": "#D1D5DB",
    "ground": "#F6F7F9",
    "paper": "#FFFFFF",
    "accent": "#00547F",
    "theirs": "#FDF3DC",
    "alarm": "#FDECEA",
    "notice": "#EEF4FA",
    # Of densities, from few to many.
    "ramp-a": "#DCEBF6",
    "ramp-b": "#9CCBE6",
    "ramp-c": "#4F9CCB",
    "ramp-d": "#00669F",
    "ramp-e": "#003A5C",
}
DARK = {
    "blue": "#5AB4E8",
    "orange": "#F59B52",
    "green": "#45C49A",
    "purple": "#DB94CE",
    "indigo": "#A79BEB",
    "wine": "#E58BB0",
    "red": "#FF8A80",
    "sky": "#2F7FB5",
    "yellow": "#EBC04D",
    "grey": "#9AA4B2",
    "pale": "#5B6472",
    "ink": "#E8EAED",
    "soft": "#B4BCC8",
    "line": "#3A4250",
    "ground": "#12161C",
    "paper": "#1B212A",
    "accent": "#7CC4F2",
    "theirs": "#3A321C",
    "alarm": "#3B1D1C",
    "notice": "#1D2A38",
    "ramp-a": "#23384A",
    "ramp-b": "#2C6489",
    "ramp-c": "#3F93C2",
    "ramp-d": "#86C8EF",
    "ramp-e": "#E6F5FF",
}
RAMP = tuple(name for name in LIGHT if name.startswith("ramp-"))
SERIES = ("blue", "orange", "green", "purple", "indigo", "wine", "sky", "yellow")
"""Colours of lines that a figure does not name."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def variables(colours: dict[str, str]) -> str:
    """Return the colours as CSS custom properties."""
    return " ".join(f"--{name}: {value};" for name, value in colours.items())
