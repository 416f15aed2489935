"""Whether the text of a file that is not UTF-8 can only be Windows-1252, that of a western language."""

from __future__ import annotations

import re
from pathlib import Path

# How many words are listed, so that a wrong one can be seen.
_LISTED = 10
_WORD = re.compile(r"[\w\x80-\uffff]+")
_FIELD = re.compile(r'[^,;|\t"\r\n]+')


def western_sample(path: Path) -> str | None:
    """Return words beyond ASCII, the first with its line, when all in the file look like western ones; else None.

    Detection by statistics was tried (charset-normalizer): among some hundred lines of ASCII a single São is read as
    the Romanian Săo. What decides here is whether each such word looks like one: é within Chloé does, £ in £ukasz, Ž at
    the end of ChloŽ, or a word of such letters alone do not.
    """
    first = ""
    seen: set[str] = set()
    listed: list[str] = []
    with path.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            if line.isascii():
                continue
            try:
                text = line.decode("cp1252")
            except UnicodeDecodeError:
                return None
            if _is_utf8(line):
                # Another program than that of the other lines wrote it.
                return None
            words = [word for word in _WORD.findall(text) if not word.isascii() and word not in seen]
            if not all(map(looks_western, words)):
                return None
            seen.update(words)
            if not first:
                shown = next(part for part in _FIELD.findall(text) if not part.isascii()).strip()[:40]
                first = f"line {number} reads {shown!r}"
                words = [word for word in words if word not in shown]
            listed += dict.fromkeys(words)
    if not first:
        return None
    more = f" and {len(listed) - _LISTED:,} more words" if len(listed) > _LISTED else ""
    return first + (f"; also {', '.join(map(repr, listed[:_LISTED]))}{more}" if listed else "")


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


_MARKS = set("‘’“”‚„–—…€£¥§©®°·«»¡¿ºª²³¹½¼¾×†•™\xa0\xad")
# What other encodings have at the place of these letters: Mac Roman ö, ü, é, ä, cp850 Ü, É, Turkish ş, ğ, ı, Czech ř.
_RARE = set("šŠžŽŸƒþÞðÐÝ")
_VOWELS = set("aeiouáàâäãåéèêëíìîïóòôöõúùûü")
_ELISION = re.compile(r"(?:[cdjlmnst]|qu)’[aeiouhéèêâîô]\w{2,}")
_SHORTENING = ("s", "t", "d", "m", "ll", "re", "ve")


def looks_western(word: str) -> bool:
    """Return whether a word with letters beyond ASCII is spelled as western languages are.

    Words that are spelled so in Windows-1252 alone are meant. The letters of another encoding stand at places where no
    such language has them: Mart’n is Martín in Mac Roman, Dvoøák is Dvořák in Windows-1250.
    """
    beyond = 0
    for place, character in enumerate(word):
        before, behind = word[place - 1 : place] or " ", word[place + 1 : place + 2] or " "
        if character.isascii():
            beyond = 0
            continue
        if character in _MARKS:
            if not _is_usual_mark(word, place, before, behind):
                return False
            continue
        beyond += 1
        if not character.isalpha() or beyond > 2 or (character.isupper() and before.islower()):
            return False
        if character in _RARE or not _is_usual_letter(word, place, before.lower(), behind.lower()):
            return False
    return True


def _is_usual_mark(word: str, place: int, before: str, behind: str) -> bool:
    character = word[place]
    if character == "\xa0":
        # It keeps words together, and the digits of a number.
        return not (before.isalpha() and (behind == " " or behind.islower()))
    if before.isalpha() and behind.isalpha():
        return character == "’" and _is_apostrophe(word, place, behind)
    if behind.isalpha() and character in "£¥¹²³¼½¾":
        return False
    if before.isalpha() and character in "‚„¡¿£¥":
        return False
    # m³ is one, and Micha³ is Michał.
    return not (before.isalpha() and character in "¹²³ºª" and len(word) > 3)


def _is_apostrophe(word: str, place: int, behind: str) -> bool:
    """Return whether ’ stands where names and abbreviations have it: O’Neil, l’avenir, Zoë’s, Ng’ang’a."""
    if behind.isupper():
        return True
    start, end = word[:place].lower(), word[place + 1 :].lower()
    return start.endswith("ng") or end in _SHORTENING or _ELISION.fullmatch(word) is not None


def _is_usual_letter(word: str, place: int, before: str, behind: str) -> bool:
    """Return whether languages that have a letter have it beside such letters."""
    match word[place].lower():
        case "œ":
            return behind in "ui"
        case "ø" | "æ":
            return before not in _VOWELS and behind not in _VOWELS
        case "è":
            return behind not in _VOWELS
        case "ì" | "ù" | "ý" | "µ":
            return not behind.isalpha()
        case "ñ" | "ç":
            return behind in _VOWELS or not behind.isalpha()
        case "õ":
            return behind == "e"
        case "ã":
            return behind in "oe" or not behind.isalpha() or word[place + 1 :].lower() == "s"
    return True
