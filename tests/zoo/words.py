"""The text that the zoo's tokenizers are trained on: plain words, so that prompts and chat templates stay short."""

WORDS = """
a an the of on in at to and or with by for from is are be as it its this that no not very more one two three four
red green blue yellow black white orange purple brown gray pink gold silver dark light bright
circle square triangle star ball cube box line dot shape shapes color colour size large small big tiny long short
cat dog bird horse fish bear rabbit robot man woman child person people face hand house car boat train tree flower
mountain river sea beach forest city street sky sun moon night day snow rain cloud fire water stone road bridge field
photo photograph picture image painting drawing sketch video clip movie music sound song voice piano guitar drum rock
jazz quiet loud slow fast walking running jumping flying sitting standing playing singing dancing eating sleeping
beautiful high low quality detailed detail best worst blurry ugly sharp style background foreground left right top
bottom center scene view camera motion still wide close up down over under between
user assistant system describe detailing detail texture quantity text spatial relationships objects main content theme
attributes features location quantities actions behaviors events time changes environment lighting movement transitions
angles key input then explain how should alter modify instruction generate new that meets requirements maintaining
consistency original where appropriate following aspects interactions you are helpful prompt engineer enhance tasked
expert creative superior degree alignment based prompts assist provide rich realistic vision please
""".split()

# Sentences of the kinds that pipelines wrap around a prompt: the merges across punctuation and capitals come from these.
SENTENCES = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships:",
    "Describe the key features of the input image (color, shape, size, texture, objects, background), then explain",
    "how the user's text instruction should alter or modify the image. Generate a new image that meets the user's",
    "requirements while maintaining consistency with the original input where appropriate.",
    "Describe the video by detailing the following aspects: 1. The main content and theme of the video. 2. The color,",
    "3. Actions, events, behaviors temporal relationships, physical movement changes of the objects. 4. background",
    "environment, light, style and atmosphere. 5. camera angles, movements, and transitions used in the video.",
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment",
    "based on textual prompts or user prompts. You are a promt engineer. <Prompt Start>",
    "A red circle on a blue background. A photo of a cat, high quality, 4k. Picture 1: Instruction: Audio: Answer:",
)


def corpus() -> list[str]:
    """Training lines: each word bare and after a space, each sentence three times so that its pieces merge first."""
    return [f"{word} {word} {word}" for word in WORDS] + 3 * list(SENTENCES)
