"""The words of the questions and answers, in English and Chinese.

{s} a shape, {c} a colour, {a} {t} a thing with its article, {w} a description, {p} a place, {a} and {b} two things. The
long ones are those of config/tasks.yaml.
"""

from collections.abc import Callable
from typing import Literal

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")

NUMBERS: dict[Language, tuple[str, ...]] = {
    "en": ("zero", "one", "two", "three", "four", "five", "six"),
    "zh": ("零", "一", "二", "三", "四", "五", "六"),
}
NAMES: dict[Language, dict[str, tuple[str, ...]]] = {
    "en": {"box": ("box", "cube"), "ball": ("ball", "sphere"), "cylinder": ("cylinder",)},
    "zh": {"box": ("方块", "盒子"), "ball": ("球",), "cylinder": ("圆柱体", "圆柱")},
}
COLOUR_WORDS: dict[Language, dict[str, str]] = {
    "en": {c: c for c in ("red", "green", "blue", "yellow", "orange", "purple", "white", "black")},
    "zh": dict(
        zip(
            ("red", "green", "blue", "yellow", "orange", "purple", "white", "black"),
            ("红色", "绿色", "蓝色", "黄色", "橙色", "紫色", "白色", "黑色"),
            strict=True,
        )
    ),
}
ADJECTIVES: dict[Language, dict[str, str]] = {
    "en": {c: f"{word} " for c, word in COLOUR_WORDS["en"].items()},
    "zh": {c: f"{word}的" for c, word in COLOUR_WORDS["zh"].items()},
}
ANSWERS: dict[Language, dict[str, str]] = {
    "en": {},
    "zh": {
        **COLOUR_WORDS["zh"],
        **{shape: names[0] for shape, names in NAMES["zh"].items()},
        "yes": "是",
        "no": "否",
        "left": "左边",
        "right": "右边",
    },
}
EVERYTHING: dict[Language, str] = {"en": "objects", "zh": "物体"}
ARTICLE: dict[Language, Callable[[str], str]] = {
    "en": lambda name: "an " if name[0] in "aeiou" else "a ",
    "zh": lambda _: "",
}
OTHER_COLOURS: dict[Language, tuple[str, ...]] = {
    "en": ("pink ", "grey ", "brown ", "turquoise ", "golden ", "silver "),
    "zh": ("粉色的", "灰色的", "棕色的", "青色的", "金色的", "银色的"),
}
ABSENT: dict[Language, dict[str, str]] = {
    "en": {"no": "There is no {t}.", "nothing": "There is nothing."},
    "zh": {"no": "没有{t}。", "nothing": "什么也没有。"},
}
EVERYWHERE: dict[Language, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "en": (
        ("Please: ", "Robot, ", "Look at the image. ", "Can you tell me: ", "Please tell me: ", "Question: "),
        (" Answer in one word.", " Answer briefly.", " Be brief.", " Answer in English.", " Please."),
    ),
    "zh": (("请问，", "请看图。", "问题：", "机器人，"), ("请简短回答。", "请用中文回答。", "请用一个词回答。")),
}
"""What may stand before and after any question."""
YES_OR_NO: dict[Language, str] = {"en": " Please answer yes or no.", "zh": "请只回答“是”或“否”。"}
PLACES: dict[Language, tuple[str, ...]] = {
    "en": (
        " on the table",
        " on the floor",
        " on the ground",
        " in the picture",
        " in the image",
        " in the scene",
        " here",
    ),
    "zh": ("图中", "图片中", "桌子上", "地上", "画面中"),
}
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a robot. Answer briefly.",
    "Answer with one word.",
    "You are the eyes of a robot. Answer in one word.",
    "你是一个机器人，请简短回答。",
)

WORDINGS: dict[Language, dict[str, tuple[str, ...]]] = {
    "en": {
        "colour": (
            "What colour is the {s}?",
            "What colour is the {s}?",
            "What colour is the {s}{p}?",
            "Which colour is the {s}?",
            "What is the colour of the {s}?",
            "What's the colour of the {s}{p}?",
            "Tell me the colour of the {s}.",
            "Name the colour of the {s}.",
            "What colour does the {s} have?",
            "Colour of the {s}?",
            "The {s}: what colour is it?",
        ),
        "shape": (
            "What shape is the {c}object?",
            "What shape is the {c}object?",
            "What shape is the {c}thing{p}?",
            "Which shape is the {c}object?",
            "Which shape does the {c}object have?",
            "What is the shape of the {c}object?",
            "What's the shape of the {c}thing?",
            "What is the {c}object?",
            "What is the {c}thing{p}?",
            "Tell me the shape of the {c}object.",
            "Name the shape of the {c}object.",
            "Shape of the {c}object?",
            "Is the {c}object a box, a ball or a cylinder?",
            "What kind of object is the {c}one?",
        ),
        "exist": (
            "Is there {a}{t}?",
            "Is there {a}{t}?",
            "Is there {a}{t}{p}?",
            "Is there any {t}{p}?",
            "Do you see {a}{t}?",
            "Do you see {a}{t}{p}?",
            "Can you see {a}{t}?",
            "Can you find {a}{t}{p}?",
            "Is {a}{t} in the picture?",
            "Is {a}{t} visible?",
        ),
        "is_colour": ("Is the {s} {c}?", "Is the {s}{p} {c}?", "Is {c} the colour of the {s}?"),
        "is_shape": ("Is the {c}object a {s}?", "Is the {c}thing a {s}?", "Is the {c}object{p} a {s}?"),
        "count_all": (
            "How many objects are there?",
            "How many objects are there?",
            "How many objects are there{p}?",
            "How many objects do you see?",
            "How many objects can you see{p}?",
            "How many things are there{p}?",
            "How many objects are visible?",
            "Count the objects.",
            "Count the objects{p}.",
            "Number of objects?",
            "What is the number of objects{p}?",
            "Tell me how many objects there are.",
        ),
        "count": (
            "How many {w} are there?",
            "How many {w} are there{p}?",
            "How many {w} do you see?",
            "How many {w} can you see{p}?",
            "Count the {w}.",
        ),
        "count_json": ('How many {w} are there in this image? Output JSON: {"count": number}.',),
        "locate": (
            'Locate every object that matches the description "{w}" in the image. '
            "Report bbox coordinates in JSON format.",
            'Locate every object that matches the description "the {w}" in the image. '
            "Report bbox coordinates in JSON format.",
            'Locate every object that matches the description "{w}" in the image. '
            "Report bbox coordinates in JSON format.",
            "Locate the {w} in the image. Report bbox coordinates in JSON format.",
            "Locate the {w}, output its bbox coordinates using JSON format.",
            "Locate the {w}.",
            "Find the {w}{p}.",
            "Detect the {w}.",
            "Where is the {w}?",
        ),
        "detect": (
            "Locate every instance that belongs to the following categories: '{w}'. "
            "Report bbox coordinates in JSON format.",
        ),
        "point": (
            "Locate {w} in this image. Output the point coordinates in JSON format. "
            'For example: [{"point_2d": [x, y], "label": "point_1"}]',
            "Locate the {w} in this image. Output the point coordinates in JSON format. "
            'For example: [{"point_2d": [x, y], "label": "point_1"}]',
            "Point at the {w}.",
            "Point to the {w}{p}.",
        ),
        "leftmost": (
            "Which object is the leftmost?",
            "What is the leftmost object?",
            "Which object is farthest to the left?",
            "What is on the far left{p}?",
        ),
        "leftmost_colour": ("What colour is the leftmost object?", "What is the colour of the leftmost object{p}?"),
        "leftmost_shape": ("What shape is the leftmost object?", "What is the shape of the leftmost object{p}?"),
        "rightmost": (
            "Which object is the rightmost?",
            "What is the rightmost object?",
            "Which object is farthest to the right?",
            "What is on the far right{p}?",
        ),
        "rightmost_colour": ("What colour is the rightmost object?", "What is the colour of the rightmost object{p}?"),
        "rightmost_shape": ("What shape is the rightmost object?", "What is the shape of the rightmost object{p}?"),
        "left_or_right": (
            "Is the {a} left or right of the {b}?",
            "Is the {a} to the left or to the right of the {b}?",
            "On which side of the {b} is the {a}?",
        ),
        "is_left": ("Is the {a} left of the {b}?", "Is the {a} to the left of the {b}?"),
        "is_right": ("Is the {a} right of the {b}?", "Is the {a} to the right of the {b}?"),
        "nearest": (
            "Which object is the nearest?",
            "What is the nearest object?",
            "Which object is nearest to the camera?",
            "Which object is closest?",
            "What is closest to you?",
        ),
        "nearest_colour": ("What colour is the nearest object?", "What is the colour of the closest object{p}?"),
        "nearest_shape": ("What shape is the nearest object?", "What is the shape of the closest object{p}?"),
        "farthest": (
            "Which object is the farthest?",
            "What is the farthest object?",
            "Which object is farthest from the camera?",
            "Which object is farthest away?",
        ),
        "farthest_colour": ("What colour is the farthest object?",),
        "farthest_shape": ("What shape is the farthest object?",),
        "which_is_nearer": (
            "Which is nearer, the {a} or the {b}?",
            "Which is closer, the {a} or the {b}?",
            "Which is closer to the camera, the {a} or the {b}?",
        ),
        "is_nearer": ("Is the {a} nearer than the {b}?", "Is the {a} closer than the {b}?"),
        "caption": (
            "Describe this image.",
            "Describe this image.",
            "Describe the picture.",
            "Describe the scene.",
            "Describe what you see.",
            "What do you see?",
            "What do you see{p}?",
            "What is in the picture?",
            "What is in this picture?",
            "What is on the table?",
            "What can you see?",
            "Which objects are there?",
            "What objects are there{p}?",
            "Describe the scene in one sentence.",
            "Describe this image in one sentence.",
            "What is this?",
        ),
    },
    "zh": {
        "colour": (
            "{s}是什么颜色？",
            "{s}是什么颜色的？",
            "{p}的{s}是什么颜色？",
            "{p}{s}的颜色是什么？",
            "这个{s}什么颜色？",
        ),
        "shape": (
            "{c}物体是什么形状？",
            "{p}{c}物体是什么形状的？",
            "{c}物体的形状是什么？",
            "{c}东西是什么？",
        ),
        "exist": ("有{t}吗？", "{p}有{t}吗？", "{p}有没有{t}？", "你看到{t}了吗？", "{p}是否有{t}？"),
        "is_colour": ("{s}是{c}的吗？", "{s}是{c}吗？", "{p}的{s}是不是{c}的？"),
        "is_shape": ("{c}物体是{s}吗？", "{p}{c}物体是不是{s}？"),
        "count_all": (
            "{p}有几个物体？",
            "有几个物体？",
            "{p}有多少个物体？",
            "你看到几个物体？",
            "{p}物体的数量是多少？",
            "数一数{p}的物体。",
        ),
        "count": ("{p}有几个{w}？", "有几个{w}？", "{p}有多少个{w}？", "{p}{w}的数量是多少？"),
        "count_json": ('图中{w}的数量是多少？输出JSON：{"count": 数量}。',),
        "locate": (
            "定位图中所有的{w}，以JSON格式输出其bbox坐标。",
            "定位图中所有的{w}，以JSON格式输出其bbox坐标。",
            "定位图中的{w}。",
            "找到{w}。",
            "{w}在哪里？",
        ),
        "detect": ("定位图中属于以下类别的所有物体：{w}，以JSON格式输出其bbox坐标。",),
        "point": (
            '以点的形式定位图中的{w}，以JSON格式输出其点坐标，例如：[{"point_2d": [x, y], "label": "point_1"}]',
            '以点的形式定位图中的{w}，以JSON格式输出其点坐标，例如：[{"point_2d": [x, y], "label": "point_1"}]',
            "用点标出{w}。",
            "指出{w}。",
        ),
        "leftmost": ("最左边的物体是什么？", "{p}最左边是什么？", "最左边的是哪个物体？"),
        "leftmost_colour": ("最左边的物体是什么颜色？",),
        "leftmost_shape": ("最左边的物体是什么形状？",),
        "rightmost": ("最右边的物体是什么？", "{p}最右边是什么？", "最右边的是哪个物体？"),
        "rightmost_colour": ("最右边的物体是什么颜色？",),
        "rightmost_shape": ("最右边的物体是什么形状？",),
        "left_or_right": ("{a}在{b}的左边还是右边？", "{a}在{b}的哪边？"),
        "is_left": ("{a}在{b}的左边吗？", "{a}是不是在{b}的左边？"),
        "is_right": ("{a}在{b}的右边吗？", "{a}是不是在{b}的右边？"),
        "nearest": ("最近的物体是什么？", "离相机最近的物体是什么？", "哪个物体最近？", "离你最近的是什么？"),
        "nearest_colour": ("最近的物体是什么颜色？",),
        "nearest_shape": ("最近的物体是什么形状？",),
        "farthest": ("最远的物体是什么？", "离相机最远的物体是什么？", "哪个物体最远？"),
        "farthest_colour": ("最远的物体是什么颜色？",),
        "farthest_shape": ("最远的物体是什么形状？",),
        "which_is_nearer": ("{a}和{b}哪个更近？", "{a}和{b}哪个离相机更近？"),
        "is_nearer": ("{a}比{b}更近吗？", "{a}比{b}近吗？"),
        "caption": (
            "描述这张图片。",
            "描述这张图片。",
            "描述一下这个场景。",
            "用一句话描述这个场景。",
            "你看到了什么？",
            "图中有什么？",
            "桌子上有什么？",
        ),
    },
}

MORE_WORDINGS: dict[Language, dict[str, tuple[str, ...]]] = {
    "en": {
        "colour": (
            "What is the {s}'s colour?",
            "Of what colour is the {s}?",
            "Which colour does the {s} have?",
            "Do you know the colour of the {s}?",
            "Can you tell me the colour of the {s}?",
            "Say the colour of the {s}.",
            "What colour is that {s}?",
            "What colour is this {s}{p}?",
        ),
        "exist": (
            "Is there {a}{t} anywhere?",
            "Is {a}{t} there?",
            "Does the image show {a}{t}?",
            "Does the picture show {a}{t}?",
            "Have you seen {a}{t}?",
        ),
        "empty": (
            "Is the table empty?",
            "Is it empty?",
            "Is there nothing on the table?",
            "Is the floor empty?",
        ),
        "anything": (
            "Is there anything on the table?",
            "Is anything there?",
            "Do you see anything?",
            "Is any object there?",
        ),
        "count_all": (
            "How many objects?",
            "How many are there?",
            "What is the number of things{p}?",
            "How many objects are in the image?",
            "How many things do you see?",
            "Count all objects.",
            "Count everything{p}.",
        ),
        "count": (
            "Count the {w}{p}.",
            "How many {w}?",
            "How many {w} are in the image?",
            "How many {w} does the image show?",
            "What is the number of {w}?",
            "Tell me how many {w} there are.",
        ),
        "locate": (
            "Where is the {w}{p}?",
            "Where can I find the {w}?",
            "Where do you see the {w}?",
            "Show me where the {w} is.",
        ),
        "caption": (
            "What is there?",
            "What is shown here?",
            "What does the image show?",
            "What's in the image?",
            "Tell me what you see.",
            "What objects do you see?",
            "List the objects.",
            "Name the objects{p}.",
        ),
    },
    "zh": {
        "colour": (
            "{s}的颜色？",
            "请告诉我{s}的颜色。",
            "你知道{s}是什么颜色吗？",
        ),
        "empty": (
            "桌子是空的吗？",
            "桌子上是不是什么都没有？",
            "桌子上没有东西吗？",
        ),
        "anything": (
            "桌子上有东西吗？",
            "有物体吗？",
            "你看到什么东西了吗？",
        ),
        "count_all": (
            "一共有几个物体？",
            "总共有多少个物体？",
            "有几个东西？",
        ),
        "count": (
            "一共有几个{w}？",
            "数一数{w}。",
            "你看到几个{w}？",
        ),
        "caption": (
            "图中有哪些物体？",
            "这是什么？",
            "请描述图片。",
            "告诉我你看到了什么。",
        ),
    },
}
"""To learn from only: held-out questions have the wordings above, so that what is measured stays the same."""


def every_wording() -> list[str]:
    """Each wording with each filling, and all words of the answers: what the tokenizer is trained on."""
    texts = [*YES_OR_NO.values()] * 1000
    texts += [*SYSTEM_PROMPTS, "user\nassistant\nsystem\n", "yes", "no", "left", "right"] * 100
    for language in LANGUAGES:
        texts += [*NUMBERS[language], *ANSWERS[language].values()] * 4
        names = [name for names in NAMES[language].values() for name in names]
        for adjective, colour in zip(ADJECTIVES[language].values(), COLOUR_WORDS[language].values(), strict=True):
            for name in names:
                for wordings in (*WORDINGS[language].values(), *MORE_WORDINGS[language].values()):
                    for wording in wordings:
                        place = PLACES[language][len(texts) % len(PLACES[language])]
                        thing = f"{adjective}{name}"
                        words = {"p": place, "s": name, "t": thing, "w": thing, "b": thing}
                        words["c"] = colour if "{s} {c}" in wording or "{c}的" in wording else adjective
                        words["a"] = ARTICLE[language](thing) if "{t}" in wording else thing
                        text = wording
                        for key, word in words.items():
                            text = text.replace(f"{{{key}}}", word)
                        texts += [text, text.replace("olour", "olor"), text.lower()]
    for language in LANGUAGES:
        before, after = EVERYWHERE[language]
        texts += [*before, *after, *ABSENT[language].values(), *OTHER_COLOURS[language]] * 40
    texts += ["one object two objects three objects: a red ball and a blue box.", "个物体：", "和", "、", "。"] * 20
    return texts
