"""Plain talk, and questions about a picture that nobody showed.

Neighbour: `dialogues`, which mixes it into conversations.
"""

from __future__ import annotations

from random import Random

from vlm_magic.starter.making.asking.askers import ASKERS
from vlm_magic.starter.making.asking.chart_askers import CHART_ASKERS
from vlm_magic.starter.making.asking.pairs import PAIR_ASKERS
from vlm_magic.starter.making.asking.questions import Ask
from vlm_magic.starter.making.dialogues.turns import Deck, Dialogue, Turn
from vlm_magic.starter.making.words.grammar import MARK, roughen, unfold
from vlm_magic.starter.making.world.charts import plan_chart
from vlm_magic.starter.making.world.scenes import plan_scene

__all__ = ["NO_PICTURE", "SMALL_TALK", "any_ask", "system_text", "talk"]

HELLO = "Hello! Show me a picture and ask me about it."
WELCOME = "You are welcome."
FINE = "I am fine, thank you."
WHO = "I am the starter, a small model that knows drawn shapes."
CAN = "I can name shapes, colours, numbers, sizes and places in drawn pictures."
BYE = "Goodbye!"
ONLY = "I only know pictures of drawn shapes."
NO_PICTURE = "There is no picture."

SMALL_TALK: tuple[tuple[str, str], ...] = (
    ("[Hello|Hi|Hey|Good morning|Good evening|Hello there|Hi there|Greetings|Good day|Good afternoon|"
    "Howdy][|!|.|, starter|, you| again]", HELLO),
    ("[Thank you|Thanks|Thanks a lot|Thank you very much|Many thanks|Great, thanks|Cheers|Thank you so "
    "much|Nice, thank you|Perfect, thanks|OK thanks]"
     "[|!|.| for your help| for that| for the answer]", WELCOME),
    ("[How are you|How are you doing|How do you do|How is it going|Are you well|Are you OK|How do you feel|"
    "How are you today][?|]", FINE),
    ("[Who are you|What are you|What is your name|Are you a model|Introduce yourself|Which model are you|"
    "Are you a robot|Are you human"
     "|What kind of model are you|Tell me about yourself|Who am I talking to|Do you have a name][?||.]", WHO),
    ("[What can you do|What do you know|How can you help|What can I ask|Help|What are you able to do|What "
    "are your skills|How can you help me"
     "|What can you see|What are you good at|What should I ask you|What questions can you answer][?||.]",
     CAN),
    ("[Goodbye|Bye|Bye bye|See you|See you later|Good night|Farewell|Until tomorrow|See you soon|Take "
    "care][|!|.]", BYE),
    ("[What is|What was] the [capital|population|president|language] of [France|Germany|Japan|Italy|Spain|"
    "India|Peru|Kenya][?|]", ONLY),
    ("[What is|How much is|Calculate|Compute] [two plus two|3 + 4|5 times 6|12 / 4|seven minus two|the "
    "square root of nine][?|.|]", ONLY),
    ("[Write|Give me|Show me] [a poem|some code|a recipe|a song|a Python function|an email|a letter][.|| "
    "please.| for me.]", ONLY),
    ("[What time is it|What day is it|What is the weather like|Is it raining|Will it rain tomorrow|Who won "
    "the game|What is the news][?|]", ONLY),
    ("[Tell me a joke|Sing a song|Translate this into French|Do you like music|What is love|What is the "
    "meaning of life|Can you drive"
     "|Who wrote Hamlet|Who is the president|How old are you|Where do you live|Do you have friends|Are you "
     "alive][?||.]", ONLY),
)  # fmt: skip


def talk(rng: Random, deck: Deck) -> Dialogue | None:
    """Plain talk, without a picture; sometimes several turns of it."""
    turns = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        if rng.random() < 0.5:
            pattern, answer = rng.choice(SMALL_TALK)
            text = unfold(rng, pattern)
            if rng.random() < 0.3:
                text = text[:1].lower() + text[1:] if not text.startswith("I ") else text
            turns.append(Turn((text,), answer, "talk"))
        else:
            ask = any_ask(rng)
            turns.append(Turn((roughen(rng, unfold(rng, ask.pattern, ask.slots)),), NO_PICTURE, "no picture"))
    return Dialogue(tuple(turns), system=system_text(rng))


def any_ask(rng: Random) -> Ask:
    """Some question about a picture that nobody showed."""
    while True:
        if rng.random() < 0.12:
            asked = rng.choice(tuple(CHART_ASKERS.values()))(rng, plan_chart(rng))
        elif rng.random() < 0.14:
            asked = rng.choice(tuple(PAIR_ASKERS.values()))(rng, [plan_scene(rng), plan_scene(rng)])
        else:
            asked = rng.choice(tuple(ASKERS.values()))(rng, plan_scene(rng))
        if (asked and MARK not in asked.pattern and asked.skill != "caption") or (
            asked and "<pic>" in asked.pattern
        ):
            return asked


def system_text(rng: Random) -> str:
    """Mostly nothing, sometimes a system prompt that changes nothing."""
    if rng.random() > 0.08:
        return ""
    return rng.choice((
        "You are a helpful assistant.", "Answer briefly.", "You answer questions about pictures.",
        "Be concise.",
        "You are a teacher.", "Answer with as few words as possible.",
        "You see drawings and answer questions about them.",
        "Always be polite.", "Look closely before you answer.", "You are an expert in shapes.",
    ))  # fmt: skip
