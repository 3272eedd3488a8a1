"""Parallel sentences in English, German, French and Spanish from a small closed grammar.

A sentence is a template and one filler for each slot; the same fillers are spoken in every language, so the four texts
translate each other exactly. Weekdays, months, countries and languages are named by CLDR (through `babel`), numbers are
spelled by `num2words`: nothing is left to normalise. The words are few (about 300 a language), so that a model of a
few million parameters can learn them from scratch; the sentences are many (millions).

What inflects is kept by hand: articles and prepositions before countries, plurals, German datives, clock times. Cities
are chosen without a leading vowel, so that French `de` never elides.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from slamlab.errors import DataError, OptionError

LANGUAGE_CODES = ("en", "de", "fr", "es")

Filler = Mapping[str, str | Mapping[str, str]]
"""Language code to text, or to texts by grammatical form."""

_MAX_TRIES = 1000
"""Draws in a row that may repeat a known sentence before the grammar counts as used up."""

# Slots: a name without its trailing digit is a kind below; two slots of a kind never take the same filler.
# The weight keeps small templates from being exhausted early.
_TEMPLATES: tuple[tuple[int, tuple[str, str, str, str]], ...] = (
    (3, ("{vehicle} to {city} leaves on {weekday} at {time}.",
         "{vehicle} nach {city} fährt am {weekday} um {time} ab.",
         "{vehicle} pour {city} part {weekday} à {time}.",
         "{vehicle} a {city} sale el {weekday} a {time}.")),
    (3, ("{event} in {city} begins on {weekday} at {time}.",
         "{event} in {city} beginnt am {weekday} um {time}.",
         "{event} à {city} commence {weekday} à {time}.",
         "{event} en {city} empieza el {weekday} a {time}.")),
    (2, ("{event} takes place on {weekday}, {date}.",
         "{event} ist am {weekday}, dem {date}.",
         "{event} a lieu le {weekday} {date}.",
         "{event} es el {weekday} {date}.")),
    (2, ("{house} in {city} closes on {weekday} at {time}.",
         "{house} in {city} schließt am {weekday} um {time}.",
         "{house} à {city} ferme le {weekday} à {time}.",
         "{house} en {city} cierra el {weekday} a {time}.")),
    (1, ("On {weekday} {house} opens at {hour} and closes at {hour2}.",
         "Am {weekday} öffnet {house} um {hour} und schließt um {hour2}.",
         "Le {weekday}, {house} ouvre à {hour} et ferme à {hour2}.",
         "El {weekday} {house} abre a {hour} y cierra a {hour2}.")),
    (2, ("{actor[subject]} gets up at {time} every {weekday}.",
         "{actor[subject]} steht jeden {weekday} um {time} auf.",
         "{actor[subject]} se lève chaque {weekday} à {time}.",
         "{actor[subject]} se levanta cada {weekday} a {time}.")),
    (2, ("{actor[subject]} celebrates {actor[own]} birthday on {date}.",
         "{actor[subject]} feiert am {date} Geburtstag.",
         "{actor[subject]} fête son anniversaire le {date}.",
         "{actor[subject]} celebra su cumpleaños el {date}.")),
    (2, ("{actor[subject]} is {age} years old and lives in {city}.",
         "{actor[subject]} ist {age} Jahre alt und wohnt in {city}.",
         "{actor[subject]} a {age} ans et habite à {city}.",
         "{actor[subject]} tiene {age} años y vive en {city}.")),
    (1, ("{actor[subject]} lives {country[in]} and speaks {language}.",
         "{actor[subject]} wohnt {country[in]} und spricht {language}.",
         "{actor[subject]} habite {country[in]} et parle {language}.",
         "{actor[subject]} vive {country[in]} y habla {language}.")),
    (2, ("{actor[subject]} speaks {language} and {language2}, but no {language3}.",
         "{actor[subject]} spricht {language} und {language2}, aber kein {language3}.",
         "{actor[subject]} parle {language} et {language2}, mais pas {language3}.",
         "{actor[subject]} habla {language} y {language2}, pero no {language3}.")),
    (2, ("In {month} {actor[subject]} travels {country[to]} with {actor2[with]}.",
         "Im {month} reist {actor[subject]} mit {actor2[with]} {country[to]}.",
         "En {month}, {actor[subject]} voyage {country[to]} avec {actor2[with]}.",
         "En {month} {actor[subject]} viaja {country[to]} con {actor2[with]}.")),
    (3, ("{actor[subject]} buys {count} {thing} for {price}.",
         "{actor[subject]} kauft {count} {thing} für {price}.",
         "{actor[subject]} achète {count} {thing} pour {price}.",
         "{actor[subject]} compra {count} {thing} por {price}.")),
    (2, ("{count} {thing} and {count2} {thing2} cost {price}.",
         "{count} {thing} und {count2} {thing2} kosten {price}.",
         "{count} {thing} et {count2} {thing2} coûtent {price}.",
         "{count} {thing} y {count2} {thing2} cuestan {price}.")),
    (1, ("How much do {count} {thing} cost in {city}?",
         "Wie viel kosten {count} {thing} in {city}?",
         "Combien coûtent {count} {thing} à {city} ?",
         "¿Cuánto cuestan {count} {thing} en {city}?")),
    (2, ("There are {count} {thing} and {count2} {thing2} {place}.",
         "{place} sind {count} {thing} und {count2} {thing2}.",
         "Il y a {count} {thing} et {count2} {thing2} {place}.",
         "Hay {count} {thing} y {count2} {thing2} {place}.")),
    (2, ("{actor[subject]} finds {count} {thing} {place}.",
         "{actor[subject]} findet {count} {thing} {place}.",
         "{actor[subject]} trouve {count} {thing} {place}.",
         "{actor[subject]} encuentra {count} {thing} {place}.")),
    (1, ("On {weekday} it will be {degrees} degrees in {city}.",
         "Am {weekday} wird es in {city} {degrees} Grad warm.",
         "{weekday}, il fera {degrees} degrés à {city}.",
         "El {weekday} hará {degrees} grados en {city}.")),
    (2, ("Today {weather} in {city}, but {weather2} in {city2}.",
         "Heute {weather} in {city}, aber in {city2} {weather2}.",
         "Aujourd'hui {weather} à {city}, mais {weather2} à {city2}.",
         "Hoy {weather} en {city}, pero {weather2} en {city2}.")),
    (2, ("{by} the journey from {city} to {city2} takes {duration}.",
         "{by} dauert die Reise von {city} nach {city2} {duration}.",
         "{by}, le voyage de {city} à {city2} dure {duration}.",
         "{by}, el viaje de {city} a {city2} dura {duration}.")),
    (2, ("{actor[subject]} eats {food} with {food2} and drinks {drink}.",
         "{actor[subject]} isst {food} mit {food2} und trinkt {drink}.",
         "{actor[subject]} mange {food} avec {food2} et boit {drink}.",
         "{actor[subject]} come {food} con {food2} y bebe {drink}.")),
    (2, ("You can reach {name} at {digit} {digit2} {digit3} {digit4} {digit5}.",
         "Sie erreichen {name} unter {digit} {digit2} {digit3} {digit4} {digit5}.",
         "Vous pouvez joindre {name} au {digit} {digit2} {digit3} {digit4} {digit5}.",
         "Puede llamar a {name} al {digit} {digit2} {digit3} {digit4} {digit5}.")),
)  # fmt: skip

# One row a filler: en, de, fr, es.
_PLAIN: dict[str, tuple[tuple[str, str, str, str], ...]] = {
    "vehicle": (
        ("the train", "der Zug", "le train", "el tren"),
        ("the bus", "der Bus", "le bus", "el autobús"),
    ),
    "by": (
        ("by train", "mit dem Zug", "en train", "en tren"),
        ("by bus", "mit dem Bus", "en bus", "en autobús"),
        ("by car", "mit dem Auto", "en voiture", "en coche"),
        ("by plane", "mit dem Flugzeug", "en avion", "en avión"),
    ),
    "city": (
        ("Berlin", "Berlin", "Berlin", "Berlín"),
        ("Munich", "München", "Munich", "Múnich"),
        ("Hamburg", "Hamburg", "Hambourg", "Hamburgo"),
        ("Vienna", "Wien", "Vienne", "Viena"),
        ("Geneva", "Genf", "Genève", "Ginebra"),
        ("Paris", "Paris", "Paris", "París"),
        ("Madrid", "Madrid", "Madrid", "Madrid"),
        ("Seville", "Sevilla", "Séville", "Sevilla"),
        ("Barcelona", "Barcelona", "Barcelone", "Barcelona"),
        ("Lisbon", "Lissabon", "Lisbonne", "Lisboa"),
        ("London", "London", "Londres", "Londres"),
        ("Brussels", "Brüssel", "Bruxelles", "Bruselas"),
        ("Rome", "Rom", "Rome", "Roma"),
        ("Prague", "Prag", "Prague", "Praga"),
        ("Warsaw", "Warschau", "Varsovie", "Varsovia"),
        ("Budapest", "Budapest", "Budapest", "Budapest"),
        ("Copenhagen", "Kopenhagen", "Copenhague", "Copenhague"),
        ("Moscow", "Moskau", "Moscou", "Moscú"),
        ("Frankfurt", "Frankfurt", "Francfort", "Fráncfort"),
        ("Venice", "Venedig", "Venise", "Venecia"),
    ),
    "event": (
        ("the meeting", "die Sitzung", "la réunion", "la reunión"),
        ("the concert", "das Konzert", "le concert", "el concierto"),
        ("the film", "der Film", "le film", "la película"),
        ("the course", "der Kurs", "le cours", "el curso"),
        ("the exam", "die Prüfung", "l'examen", "el examen"),
        ("the party", "das Fest", "la fête", "la fiesta"),
        ("the game", "das Spiel", "le match", "el partido"),
        ("the dinner", "das Abendessen", "le dîner", "la cena"),
    ),
    "house": (
        ("the museum", "das Museum", "le musée", "el museo"),
        ("the library", "die Bibliothek", "la bibliothèque", "la biblioteca"),
        ("the bank", "die Bank", "la banque", "el banco"),
        ("the pharmacy", "die Apotheke", "la pharmacie", "la farmacia"),
        ("the restaurant", "das Restaurant", "le restaurant", "el restaurante"),
        ("the bakery", "die Bäckerei", "la boulangerie", "la panadería"),
        ("the theatre", "das Theater", "le théâtre", "el teatro"),
        ("the market", "der Markt", "le marché", "el mercado"),
        ("the school", "die Schule", "l'école", "la escuela"),
    ),
    "thing": (
        ("books", "Bücher", "livres", "libros"),
        ("apples", "Äpfel", "pommes", "manzanas"),
        ("eggs", "Eier", "œufs", "huevos"),
        ("chairs", "Stühle", "chaises", "sillas"),
        ("shirts", "Hemden", "chemises", "camisas"),
        ("tickets", "Fahrkarten", "billets", "billetes"),
        ("flowers", "Blumen", "fleurs", "flores"),
        ("glasses", "Gläser", "verres", "vasos"),
        ("bottles", "Flaschen", "bouteilles", "botellas"),
        ("letters", "Briefe", "lettres", "cartas"),
        ("keys", "Schlüssel", "clés", "llaves"),
        ("paintings", "Gemälde", "tableaux", "cuadros"),
        ("cups", "Tassen", "tasses", "tazas"),
        ("newspapers", "Zeitungen", "journaux", "periódicos"),
        ("pencils", "Bleistifte", "crayons", "lápices"),
        ("plates", "Teller", "assiettes", "platos"),
        ("oranges", "Orangen", "oranges", "naranjas"),
        ("knives", "Messer", "couteaux", "cuchillos"),
        ("coats", "Mäntel", "manteaux", "abrigos"),
    ),
    "place": (
        ("on the table", "auf dem Tisch", "sur la table", "sobre la mesa"),
        ("in the kitchen", "in der Küche", "dans la cuisine", "en la cocina"),
        ("in the garden", "im Garten", "dans le jardin", "en el jardín"),
        ("in the office", "im Büro", "dans le bureau", "en la oficina"),
        ("in the car", "im Auto", "dans la voiture", "en el coche"),
        ("in the bag", "in der Tasche", "dans le sac", "en la bolsa"),
        ("under the bed", "unter dem Bett", "sous le lit", "debajo de la cama"),
        ("beside the window", "neben dem Fenster", "près de la fenêtre", "junto a la ventana"),
        ("in the box", "in der Kiste", "dans la boîte", "en la caja"),
        ("behind the door", "hinter der Tür", "derrière la porte", "detrás de la puerta"),
    ),
    "weather": (
        ("it is raining", "regnet es", "il pleut", "llueve"),
        ("it is snowing", "schneit es", "il neige", "nieva"),
        ("it is cold", "ist es kalt", "il fait froid", "hace frío"),
        ("it is hot", "ist es heiß", "il fait chaud", "hace calor"),
        ("it is windy", "ist es windig", "le vent souffle", "hace viento"),
        ("it is foggy", "ist es neblig", "il y a du brouillard", "hay niebla"),
        ("the sun is shining", "scheint die Sonne", "le soleil brille", "brilla el sol"),
    ),
    "food": (
        ("bread", "Brot", "du pain", "pan"),
        ("cheese", "Käse", "du fromage", "queso"),
        ("rice", "Reis", "du riz", "arroz"),
        ("fish", "Fisch", "du poisson", "pescado"),
        ("meat", "Fleisch", "de la viande", "carne"),
        ("salad", "Salat", "de la salade", "ensalada"),
        ("soup", "Suppe", "de la soupe", "sopa"),
        ("cake", "Kuchen", "du gâteau", "pastel"),
        ("fruit", "Obst", "des fruits", "fruta"),
        ("honey", "Honig", "du miel", "miel"),
        ("butter", "Butter", "du beurre", "mantequilla"),
    ),
    "drink": (
        ("coffee", "Kaffee", "du café", "café"),
        ("tea", "Tee", "du thé", "té"),
        ("milk", "Milch", "du lait", "leche"),
        ("water", "Wasser", "de l'eau", "agua"),
        ("wine", "Wein", "du vin", "vino"),
        ("cocoa", "Kakao", "du cacao", "cacao"),
        ("juice", "Saft", "du jus", "zumo"),
    ),
}
_CURRENCIES = (
    ("euros", "Euro", "euros", "euros"),
    ("dollars", "Dollar", "dollars", "dólares"),
    ("francs", "Franken", "francs", "francos"),
)
_HOURS_LONG = ("hours", "Stunden", "heures", "horas")
_MINUTES_LONG = ("minutes", "Minuten", "minutes", "minutos")

_NAMES = {
    "her": ("Anna", "Laura", "Emma", "Clara", "Marta", "Nora", "Sara", "Carmen", "Linda"),
    "his": ("Paul", "David", "Thomas", "Daniel", "Hugo", "Max", "Oliver", "Robert", "Adrian"),
}
# English possessive; en; German nominative and dative; fr; es.
_PEOPLE = (
    ("his", "my brother", "mein Bruder", "meinem Bruder", "mon frère", "mi hermano"),
    ("her", "my sister", "meine Schwester", "meiner Schwester", "ma sœur", "mi hermana"),
    ("his", "my father", "mein Vater", "meinem Vater", "mon père", "mi padre"),
    ("her", "my mother", "meine Mutter", "meiner Mutter", "ma mère", "mi madre"),
    ("his", "my uncle", "mein Onkel", "meinem Onkel", "mon oncle", "mi tío"),
    ("her", "my aunt", "meine Tante", "meiner Tante", "ma tante", "mi tía"),
    ("his", "my grandfather", "mein Großvater", "meinem Großvater", "mon grand-père", "mi abuelo"),
    ("her", "my grandmother", "meine Großmutter", "meiner Großmutter", "ma grand-mère", "mi abuela"),
    ("his", "the teacher", "der Lehrer", "dem Lehrer", "le professeur", "el profesor"),
    ("his", "the doctor", "der Arzt", "dem Arzt", "le médecin", "el médico"),
    ("his", "the neighbour", "der Nachbar", "dem Nachbarn", "le voisin", "el vecino"),
)

_SPOKEN = ("en", "de", "fr", "es", "it", "pt", "ru", "ja", "zh", "tr")
_TERRITORIES = (
    "DE", "FR", "ES", "IT", "PT", "PL", "SE", "NO", "DK", "FI", "AT", "CH",
    "GR", "IE", "NL", "HU", "EG", "MA", "JP", "CN", "IN", "BR", "MX", "CA",
)  # fmt: skip
_FRENCH_MASCULINE = {"PT", "DK", "MA", "JP", "BR", "MX", "CA"}
# Territories with an article of their own: language -> territory -> ("in ...", "to ...").
_WITH_ARTICLE = {
    "en": {"NL": ("in the Netherlands", "to the Netherlands")},
    "de": {
        "CH": ("in der Schweiz", "in die Schweiz"),
        "NL": ("in den Niederlanden", "in die Niederlande"),
    },
    "fr": {"NL": ("aux Pays-Bas", "aux Pays-Bas")},
    "es": {"NL": ("en los Países Bajos", "a los Países Bajos")},
}

_DAYS_OF_MONTH = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_CLOCK_MINUTES = (0, 5, 10, 15, 20, 30, -20, -15, -10, -5)
# Numbers that end in one agree with what they count (un, una, ein): none is used outside dates and clock times.
_COUNTS = tuple(range(2, 13))
_AGES = (*range(13, 21), *range(22, 30), *range(30, 100, 10))
_AMOUNTS = (*range(2, 21), *range(25, 100, 5))
_DEGREES = (*range(2, 21), *range(22, 31))


def _row(texts: Iterable[str]) -> dict[str, str]:
    """Pair texts given in the order of `LANGUAGE_CODES` with their language."""
    return dict(zip(LANGUAGE_CODES, texts, strict=True))


def _spelled(number: int) -> dict[str, str]:
    from num2words import num2words

    return {code: num2words(number, lang=code) for code in LANGUAGE_CODES}


def _quantity(number: int, unit: Sequence[str]) -> dict[str, str]:
    return _row(f"{word} {name}" for word, name in zip(_spelled(number).values(), unit, strict=True))


def _clock(hour: int, minute: int) -> dict[str, str]:
    """Say a time of day after "at".

    Args:
        hour: 1 to 11, the hour that English names: half past seven is (7, 30), ten to seven is (7, -10).
        minute: One of `_CLOCK_MINUTES`.
    """
    names, past = _spelled(hour), _spelled(abs(minute))
    french_hour = "une heure" if hour == 1 else f"{names['fr']} heures"
    spanish_hour = "la una" if hour == 1 else f"las {names['es']}"
    if minute == 0:
        german_hour = "ein" if hour == 1 else names["de"]
        return _row((f"{names['en']} o'clock", f"{german_hour} Uhr", french_hour, spanish_hour))
    if minute == 30:
        next_hour = _spelled(hour + 1)["de"]  # German counts towards the hour to come
        return _row(
            (f"half past {names['en']}", f"halb {next_hour}", f"{french_hour} et demie", f"{spanish_hour} y media")
        )
    if abs(minute) == 15:
        past = _row(("a quarter", "Viertel", "et quart" if minute > 0 else "le quart", "cuarto"))
    en, de, es = ("past", "nach", "y") if minute > 0 else ("to", "vor", "menos")
    minus = "" if minute > 0 else "moins "
    return _row(
        (
            f"{past['en']} {en} {names['en']}",
            f"{past['de']} {de} {names['de']}",
            f"{french_hour} {minus}{past['fr']}",
            f"{spanish_hour} {es} {past['es']}",
        )
    )


def _date(day: int, months: Mapping[str, str]) -> dict[str, str]:
    """Say a day of a month after "on", "am", "le", "el"."""
    from num2words import num2words

    days = _spelled(day)
    return _row(
        (
            f"the {num2words(day, lang='en', to='ordinal')} of {months['en']}",
            f"{num2words(day, lang='de', to='ordinal')}n {months['de']}",
            f"{'premier' if day == 1 else days['fr']} {months['fr']}",
            f"{days['es']} de {months['es']}",
        )
    )


def _countries() -> list[Filler]:
    from babel import Locale

    names = {code: Locale(code).territories for code in LANGUAGE_CODES}

    def forms(code: str, territory: str) -> dict[str, str]:
        if territory in _WITH_ARTICLE[code]:
            inside, towards = _WITH_ARTICLE[code][territory]
        else:
            french = "au" if territory in _FRENCH_MASCULINE else "en"
            prepositions = {"en": ("in", "to"), "de": ("in", "nach"), "fr": (french, french), "es": ("en", "a")}
            inside, towards = (f"{word} {names[code][territory]}" for word in prepositions[code])
        return {"in": inside, "to": towards}

    return [{code: forms(code, territory) for code in LANGUAGE_CODES} for territory in _TERRITORIES]


def _actors() -> list[Filler]:
    fillers: list[Filler] = []
    for own, names in _NAMES.items():
        fillers += [{code: {"subject": name, "with": name, "own": own} for code in LANGUAGE_CODES} for name in names]
    for own, en, de, de_dative, fr, es in _PEOPLE:
        subject, dative = _row((en, de, fr, es)), _row((en, de_dative, fr, es))
        fillers.append({code: {"subject": subject[code], "with": dative[code], "own": own} for code in LANGUAGE_CODES})
    return fillers


@cache
def _fillers() -> dict[str, list[Filler]]:
    """Return what each kind of slot may hold.

    Raises:
        DataError: If `babel` or `num2words` is not installed.
    """
    try:
        import num2words  # noqa: F401
        from babel import Locale
        from babel.dates import get_day_names, get_month_names
    except ImportError as error:
        raise DataError(
            "the pocket corpus needs babel and num2words", str(error), "run `pip install 'slamlab[pocket]'`"
        ) from None

    weekdays = {code: get_day_names("wide", locale=code) for code in LANGUAGE_CODES}
    months = {code: get_month_names("wide", locale=code) for code in LANGUAGE_CODES}
    languages = {code: Locale(code).languages for code in LANGUAGE_CODES}
    month_rows = [{code: months[code][month] for code in LANGUAGE_CODES} for month in range(1, 13)]
    kinds: dict[str, list[Filler]] = {kind: [_row(texts) for texts in rows] for kind, rows in _PLAIN.items()}
    kinds["weekday"] = [{code: weekdays[code][day] for code in LANGUAGE_CODES} for day in range(7)]
    kinds["month"] = list(month_rows)
    kinds["date"] = [
        _date(day, row)
        for row, num_days in zip(month_rows, _DAYS_OF_MONTH, strict=True)
        for day in range(1, num_days + 1)
    ]
    kinds["hour"] = [_clock(hour, 0) for hour in range(1, 12)]
    kinds["time"] = [_clock(hour, minute) for hour in range(1, 12) for minute in _CLOCK_MINUTES]
    kinds["language"] = [{code: languages[code][name] for code in LANGUAGE_CODES} for name in _SPOKEN]
    kinds["country"] = _countries()
    kinds["actor"] = _actors()
    kinds["name"] = [_row([name] * 4) for names in _NAMES.values() for name in names]
    kinds["digit"] = [_spelled(number) for number in range(10)]
    kinds["count"] = [_spelled(number) for number in _COUNTS]
    kinds["age"] = [_spelled(number) for number in _AGES]
    kinds["degrees"] = [_spelled(number) for number in _DEGREES]
    kinds["price"] = [_quantity(number, unit) for number in _AMOUNTS for unit in _CURRENCIES]
    kinds["duration"] = [_quantity(number, _HOURS_LONG) for number in _COUNTS]
    kinds["duration"] += [_quantity(number, _MINUTES_LONG) for number in range(15, 60, 5)]
    return kinds


@cache
def _slots(template: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the slots of a template by kind, e.g. ((city, (city, city2)), (time, (time,)))."""
    by_kind: dict[str, list[str]] = {}
    for slot in dict.fromkeys(re.findall(r"\{(\w+)", template)):
        by_kind.setdefault(slot.rstrip("0123456789"), []).append(slot)
    return tuple((kind, tuple(slots)) for kind, slots in by_kind.items())


def _agree(code: str, text: str) -> str:
    """Apply what neighbouring words do to each other, and open the sentence with a capital."""
    if code == "es":
        text = re.sub(r"\by (?=[iIíÍ])", "e ", text)  # alemán e inglés
    return re.sub(r"\w", lambda letter: letter[0].upper(), text, count=1)


def spoken_key(text: str) -> str:
    """Return `text` as it is heard: lower case, words only. Two texts with the same key sound the same."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def sentences(num: int, seed: int) -> list[dict[str, str]]:
    """Draw parallel sentences; no two share their words in any language.

    A smaller `num` gives a prefix of a larger one.

    Args:
        num: Number of sentences, 0 or more.
        seed: Seed of the draw.

    Returns:
        Language code (en, de, fr, es) to text, one dict a sentence.

    Raises:
        OptionError: If `num` is negative.
        DataError: If the grammar has no `num` different sentences, or `babel` or `num2words` is missing.
    """
    if num < 0:
        raise OptionError("the number of sentences is 0 or more", num, "ask for fewer or more sentences")
    rng = random.Random(seed)
    kinds, weights = _fillers(), [weight for weight, _ in _TEMPLATES]
    seen: set[tuple[str, str]] = set()
    drawn: list[dict[str, str]] = []
    tries = 0
    while len(drawn) < num:
        _, texts = rng.choices(_TEMPLATES, weights)[0]
        chosen: dict[str, Filler] = {}
        for kind, slots in _slots(texts[0]):
            chosen.update(zip(slots, rng.sample(kinds[kind], len(slots)), strict=True))
        sentence = {
            code: _agree(code, text.format(**{slot: filler[code] for slot, filler in chosen.items()}))
            for code, text in _row(texts).items()
        }
        keys = {(code, spoken_key(text)) for code, text in sentence.items()}
        if seen.isdisjoint(keys):
            seen |= keys
            drawn.append(sentence)
            tries = 0
        elif (tries := tries + 1) == _MAX_TRIES:
            raise DataError("the pocket grammar has that many different sentences", num, "ask for fewer")
    return drawn
