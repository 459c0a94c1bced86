# SPDX-License-Identifier: MIT
"""What the zoo's tokenizers are trained on: plain words, so that prompts and chat templates stay short."""

WORDS = """
a an the of on in at to and or with by for from is are be as it its this that no not very more one two
three four red green blue yellow black white orange purple brown gray pink gold silver dark light bright
circle square triangle star ball cube box line dot shape shapes color size large small big tiny
long short cat dog bird horse fish bear rabbit robot man woman child person people face hand house car
boat train tree flower mountain river sea beach forest city street sky sun moon night day snow rain cloud
fire water stone road bridge field photo photograph picture image painting drawing sketch video clip movie
music sound song voice piano guitar drum rock jazz quiet loud slow fast walking running jumping flying
sitting standing playing singing dancing eating sleeping beautiful high low quality detailed detail best
worst blurry ugly sharp style background foreground left right top bottom center scene view camera motion
still wide close up down over under between user assistant system describe detailing texture quantity text
spatial relationships objects main content theme attributes features location quantities actions behaviors
events time changes environment lighting movement transitions angles key input then explain how should
alter modify instruction generate new meets requirements maintaining consistency original where
appropriate following aspects interactions you helpful prompt engineer enhance tasked expert creative
superior degree alignment based prompts assist provide rich realistic vision please
""".split()

# Instructions of the kind that pipelines wrap around a prompt: merges across punctuation and capitals.
SENTENCES = (
    "Describe the picture: its main content, the color, shape and size of the objects, texture, background.",
    "You are a helpful assistant. Describe what the user asks for. Then explain how the image should change.",
    "1. The theme of the video. 2. Actions, events, movement. 3. Light, style. 4. Camera angles, motion.",
    "Picture 1: a red circle on a blue background. Instruction: A photo of a cat, high quality, 4k. Answer:",
)


def corpus() -> list[str]:
    """Training lines: each word bare and after a space, each sentence three times so that it merges first."""
    return [f"{word} {word} {word}" for word in WORDS] + 3 * list(SENTENCES)
